"""Which tokens min-p, top-k and top-p keep: against transformers' own processors, and apart from other rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from pipeline.engine import native
from pipeline.engine.native.sampler import choose_tokens
from pipeline.engine.plain.sampler import TOP, SamplingRows, truncation_threshold
from tests.engine.small.sampling_cases import WAYS, chosen_by, rows_of
from tests.example_counts import examples


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Tokens are chosen by the compiled kernel, then by torch's operations."""
    with chosen_by(request.param):
        yield request.param


def thresholds(logits: torch.Tensor, rows: SamplingRows) -> torch.Tensor:
    """The least logit, after temperature, that stays in each row, by the way that is used now."""
    if native.library() is not None:
        parameters = rows.greedy, rows.temperature, rows.top_p, rows.log_min_p, rows.top_k, rows.uniform
        return choose_tokens(logits, *parameters)[1]
    scaled = logits / rows.temperature[:, None]
    return truncation_threshold(scaled, torch.softmax(scaled, -1), rows)


def warped(logits: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    """What transformers keeps, bool [V]."""
    scores = TemperatureLogitsWarper(temperature)(None, logits)
    if min_p:  # first, as in vLLM
        scores = MinPLogitsWarper(min_p)(None, scores)  # type: ignore[arg-type]
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    return scores > -torch.inf


def test_top_k_keeps_its_tokens_when_the_rest_of_the_mass_rounds_to_nothing(way: str) -> None:
    logits = torch.linspace(0, -400, 300)[None]
    kept = logits >= thresholds(logits, rows_of(1, 300, top_k=50))[:, None]
    assert int(kept.sum()) == 50


def test_top_p_is_a_share_of_all_that_tie_with_the_kth(way: str) -> None:
    """Two tokens of 0.3 and four of 0.1, of which top-k 3 keeps all six: so 0.7 of the mass needs the ties."""
    logits = torch.tensor([[0.3, 0.3, 0.1, 0.1, 0.1, 0.1]]).log()
    for top_p, count in ((0.2, 2), (0.45, 2), (0.59, 2), (0.7, 6)):
        assert int((logits >= thresholds(logits, rows_of(1, 6, top_k=3, top_p=top_p))[:, None]).sum()) == count
    many = torch.zeros(1, 3 * TOP)  # all tie, more of them than are looked at first
    assert float(thresholds(many, rows_of(1, 3 * TOP, top_k=50, top_p=0.5))) == 0.0


@pytest.mark.parametrize("top_p", [1e-50, 1e-30, 1e-6])
def test_a_tiny_top_p_keeps_the_most_likely_token(way: str, top_p: float) -> None:
    logits = torch.randn(3, 700, generator=torch.Generator().manual_seed(3))
    kept = logits >= thresholds(logits, rows_of(3, 700, top_p=top_p))[:, None]
    assert torch.equal(kept, logits == logits.amax(-1, keepdim=True))


@st.composite
def random_logits(draw: st.DrawFn) -> torch.Tensor:
    """Peaked or flat, of few or many tokens, with and without ties."""
    vocab = draw(st.sampled_from([2, 5, 127, 128, 129, 300, TOP, TOP + 1, 1500]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(0, draw(st.sampled_from([0.01, 0.3, 2.0, 8.0])), vocab).astype(np.float32)
    if draw(st.booleans()):
        logits = np.round(logits * 4) / np.float32(4)
    return torch.from_numpy(logits)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=examples(300), deadline=None)
@given(
    logits=random_logits(), temperature=st.sampled_from([1.0, 0.5, 3.0]), top_k=st.sampled_from([0, 1, 3, 50, 600]),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)), min_p=st.one_of(st.just(0.0), st.floats(0.001, 1.0)),
)  # fmt: skip
def test_truncation_is_transformers(
    way: str, logits: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    vocab = len(logits)
    top_k = min(top_k, vocab)
    rows = rows_of(1, vocab, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    scaled = logits[None] / temperature
    with chosen_by(way):
        kept = (scaled >= thresholds(logits[None], rows)[:, None])[0]
    theirs = warped(logits[None], temperature, top_k, top_p, min_p)[0]
    # Rounding may decide at a border, and transformers' top-p takes some of the tokens that tie there and not others.
    p = softmax(scaled[0].double().numpy())
    if min_p:
        assume(not ((np.abs(np.log(p / p.max()) - np.log(min_p)) < 1e-5) & (p < p.max())).any())
        p[p < min_p * p.max() * (1 - 1e-6)] = 0
    order = np.argsort(-p, kind="stable")
    within = np.where(np.isin(np.arange(vocab), np.flatnonzero(p >= np.sort(p)[-top_k or -vocab])), p, 0)
    before = np.empty(vocab)
    before[order] = np.cumsum(within[order] / within.sum()) - within[order] / within.sum()
    border = np.zeros(vocab, bool)
    if top_p < 1:
        border = np.isin(p, p[np.abs(before - top_p) < 1e-4])
        last = theirs.numpy().nonzero()[0]
        border |= p == p[last].min()
    assert torch.equal(kept[~border], theirs[~border])
    assert kept[int(logits.argmax())]


def test_the_full_sort_and_the_shortcut_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat rows need more than TOP tokens; rows beside them do not, and nothing depends on the company."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(40, 4000, generator=generator) * torch.linspace(0.01, 6, 40)[:, None]
    probabilities = torch.softmax(logits, -1)
    for top_p, min_p in ((0.3, 0.0), (0.9, 0.0), (0.99, 0.0), (0.9, 0.01), (0.95, 0.2), (0.3, 0.95)):
        rows = rows_of(40, 4000, top_p=top_p, min_p=min_p)
        quick = truncation_threshold(logits, probabilities, rows)
        alone = [
            truncation_threshold(
                logits[i : i + 1], probabilities[i : i + 1], rows_of(1, 4000, top_p=top_p, min_p=min_p)
            )
            for i in range(40)
        ]
        assert torch.equal(quick, torch.cat(alone))
        needs = []
        for p in probabilities.double().numpy():
            kept = np.sort(p[p >= min_p * p.max()])[::-1]
            needs.append(np.count_nonzero(np.cumsum(kept / kept.sum()) < top_p) + 1)
        assert min(needs) < TOP < max(needs)
        assert [int((lo >= t).sum()) for lo, t in zip(logits, quick, strict=True)] == pytest.approx(needs, abs=1)
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.engine.plain.sampler.TOP", 4000)
            assert torch.equal(quick, truncation_threshold(logits, probabilities, rows))


def test_min_p_of_one_row_leaves_every_bit_of_its_neighbours(way: str) -> None:
    logits = torch.randn(6, 1500, generator=torch.Generator().manual_seed(2)) * 3
    plain, cut = (rows_of(6, 1500, top_p=0.9, min_p=m) for m in (0.0, 0.05))
    mixed = replace(plain, log_min_p=torch.cat([cut.log_min_p[:3], plain.log_min_p[3:]]))
    found = thresholds(logits, mixed)
    assert torch.equal(found[:3], thresholds(logits, cut)[:3])
    assert torch.equal(found[3:], thresholds(logits, plain)[3:])
    assert (found[:3] != thresholds(logits, plain)[:3]).all()
