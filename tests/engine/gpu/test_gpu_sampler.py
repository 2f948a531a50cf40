"""Tokens and measures by the GPU's kernels against exact ones in float64, and bits that are a row's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from pipeline.engine import gpu
from pipeline.engine.gpu import sampler_check
from pipeline.engine.gpu.sampler import DRAWN, choose_tokens, kept_from, measure_tokens, top_tokens
from pipeline.engine.layers import sampler, stats
from pipeline.engine.plain.sampler import SamplingRows, sample_by_torch
from tests.engine.gpu.device import DEVICE, slow_if_interpreted
from tests.engine.small.sampling_cases import LAST, RULES, Array, rows_of

TILE = 64
"""So that small vocabularies have several tiles, too."""
BORDER = 2e-5
VOCABULARIES = [1, 2, 63, 64, 65, 150, 300]
few = settings(max_examples=8 if DEVICE == "cpu" else 300, deadline=None)


def parameters(rows: SamplingRows) -> list[torch.Tensor]:
    kinds = rows.greedy, rows.temperature, rows.top_p, rows.log_min_p, rows.top_k, rows.uniform
    return [t.to(DEVICE) for t in kinds]


def chosen(logits: torch.Tensor, rows: SamplingRows, tile: int = TILE) -> torch.Tensor:
    ways: dict[str, Any] = {"truncates": rows.truncates, "all_greedy": rows.all_greedy, "tile": tile}
    return choose_tokens(logits.to(DEVICE), *parameters(rows), **ways).cpu()


def kept_of(logits: torch.Tensor, rows: SamplingRows, tile: int = TILE) -> torch.Tensor:
    """What may be drawn, bool [B, V]. Where nothing is cut, even -inf is as large as the threshold."""
    return (logits > -torch.inf) & (
        logits >= kept_from(logits.to(DEVICE), *parameters(rows)[:5], tile=tile).cpu()[:, None]
    )


def random_logits(rng: np.random.Generator, rows: int, vocab: int) -> torch.Tensor:
    """Flat or peaked, near 0 or far from it, some with ties, some with holes."""
    logits = rng.normal(0, rng.choice([0.01, 1, 8], (rows, 1)), (rows, vocab)) + rng.choice([0, -60], (rows, 1))
    logits = np.where(rng.random((rows, 1)) < 0.3, np.round(logits * 4) / 4, logits)
    holes = (rng.random((rows, vocab)) < 0.5) & (rng.random((rows, 1)) < 0.3)
    holes[np.arange(rows), rng.integers(vocab, size=rows)] = False
    return torch.from_numpy(np.where(holes, -np.inf, logits).astype(np.float32))


def random_rows(rng: np.random.Generator, rows: int, vocab: int) -> SamplingRows:
    return SamplingRows(
        torch.zeros(rows, dtype=torch.bool), torch.from_numpy(rng.choice([0.3, 1, 3], rows).astype(np.float32)),
        torch.from_numpy(np.minimum(rng.choice([1, 3, 50, vocab], rows), vocab)),
        torch.from_numpy(rng.choice([1, 0.999, 0.6, 1e-3], rows).astype(np.float32)),
        torch.from_numpy(rng.choice([-np.inf, -3, -0.7, 0], rows).astype(np.float32)),
        torch.from_numpy(rng.choice([0, 2**-53, 0.3, LAST, *rng.random(4)], rows)), truncates=True, all_greedy=False,
    )  # fmt: skip


def exactly_kept(logits: Array, temperature: float, top_k: int, top_p: float, log_min_p: float) -> tuple[Array, Array]:
    """What is kept, by sorting in float64, and what lies so near a border that rounding may decide, both bool [V]."""
    scaled = logits.astype(np.float64) / temperature
    distance = scaled - scaled.max() - max(log_min_p, -1e9)
    p = np.where(distance >= 0, softmax(scaled), 0)
    p[p < np.sort(p)[-top_k]] = 0  # what ties with the last stays
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    larger = np.searchsorted(-p[order], -p, "left")  # how many are more likely
    before = np.concatenate([[0], np.cumsum(p[order])])[larger]
    kept = (p > 0) & ((before < top_p) | (top_p >= 1))
    near = (np.abs(distance) < BORDER) & (scaled < scaled.max())
    if top_p < 1:
        near |= (np.abs(before - top_p) < BORDER) & (before > 0)
    return kept, near


def assert_inverted(logits: torch.Tensor, kept: torch.Tensor, rows: SamplingRows, tokens: torch.Tensor) -> None:
    """The tokens are kept ones, and the right ones up to rounding."""
    index, scaled = np.arange(len(tokens)), logits.numpy().astype(np.float64) / rows.temperature.numpy()[:, None]
    p = softmax(np.where(kept.numpy(), scaled, -np.inf), -1)
    cumulative = np.cumsum(p, -1)
    assert (p[index, tokens] > 0).all()
    assert ((cumulative - p)[index, tokens] - BORDER <= rows.uniform.numpy()).all()
    assert (cumulative[index, tokens] + BORDER >= rows.uniform.numpy()).all()


@few
@given(seed=st.integers(0, 2**32 - 1), vocab=st.sampled_from(VOCABULARIES))
def test_truncation_keeps_what_a_sort_keeps(seed: int, vocab: int) -> None:
    rng = np.random.default_rng(seed)
    logits, rows = random_logits(rng, 4, vocab), random_rows(rng, 4, vocab)
    kept = kept_of(logits, rows)
    for i in range(4):
        rule = [float(t[i]) for t in (rows.temperature, rows.top_p, rows.log_min_p)]
        exact, near = exactly_kept(logits[i].numpy(), rule[0], int(rows.top_k[i]), *rule[1:])
        assert (kept[i].numpy() == exact)[~near].all()
        assert kept[i, int(logits[i].argmax())]
    assert_inverted(logits, kept, rows, chosen(logits, rows))


@few
@given(seed=st.integers(0, 2**32 - 1), vocab=st.sampled_from(VOCABULARIES))
def test_the_noise_finds_its_token_in_the_running_sum(seed: int, vocab: int) -> None:
    rng = np.random.default_rng(seed)
    logits, rows = random_logits(rng, 6, vocab), random_rows(rng, 6, vocab)
    rows = replace(rows, truncates=False)
    assert_inverted(logits, logits > -torch.inf, rows, chosen(logits, rows))


@pytest.mark.parametrize("rule", [{}, {"temperature": 1.5, "min_p": 0.05}], ids=str)
def test_evenly_spread_noise_draws_every_token_as_often_as_it_is_likely(rule: dict[str, Any]) -> None:
    draws = 60 if DEVICE == "cpu" else 10_000
    logits = torch.from_numpy(np.random.default_rng(1).normal(0, 2, 100).astype(np.float32))
    rows = rows_of(draws, 100, uniform=(np.arange(draws) + 0.5) / draws, **rule)
    kept = kept_of(logits[None], rows_of(1, 100, **rule))[0] if rule else torch.ones(100, dtype=torch.bool)
    p = softmax(np.where(kept, logits.double() / rule.get("temperature", 1.0), -np.inf))
    counts = np.bincount(chosen(logits.expand(draws, -1), rows).numpy(), minlength=100)
    assert (np.abs(counts - p * draws) <= 1 + 1e-4 * draws).all()
    assert counts[p == 0].sum() == 0


def test_top_p_is_a_share_of_all_that_tie_with_the_kth() -> None:
    """Two tokens of 0.3 and four of 0.1, of which top-k 3 keeps all six: so 0.7 of the mass needs the ties."""
    logits = torch.tensor([[0.3, 0.3, 0.1, 0.1, 0.1, 0.1]]).log()
    for top_p, count in ((1e-30, 2), (0.2, 2), (0.45, 2), (0.59, 2), (0.7, 6)):
        assert int(kept_of(logits, rows_of(1, 6, top_k=3, top_p=top_p)).sum()) == count
    many = torch.zeros(1, 300)  # 0 and -0 tie
    many[:, ::2] = -0.0
    assert kept_of(many, rows_of(1, 300, top_k=5, top_p=0.5)).all()


def test_top_k_keeps_its_tokens_when_the_rest_of_the_mass_rounds_to_nothing() -> None:
    assert int(kept_of(torch.linspace(0, -400, 300)[None], rows_of(1, 300, top_k=50)).sum()) == 50


def test_top_k_keeps_as_many_as_it_says() -> None:
    ks = torch.tensor([1, 2, 3, 7, 49, 50, 51, 128, 298, 299])
    logits = torch.randn(10, 300, generator=torch.Generator().manual_seed(1))
    rows = replace(rows_of(10, 300, top_k=1), top_k=ks)
    assert torch.equal(kept_of(logits, rows).sum(-1), ks)


def test_greedy_ties_go_to_the_lowest_id_and_forbidden_tokens_to_nobody() -> None:
    logits = torch.full((3, 200), -torch.inf)
    logits[0, [70, 71, 199]] = 5.0
    logits[1, 199] = -9.0
    logits[2, [3, 150]] = torch.tensor([0.0, -0.0])
    assert chosen(logits, rows_of(3, 200, temperature=0.0)).tolist() == [70, 199, 3]
    for uniform in (0.0, 0.5, LAST):
        rows = rows_of(3, 200, uniform=np.full(3, uniform))
        mixed = replace(rows, greedy=torch.tensor([True, False, False]))
        assert chosen(logits, mixed).tolist()[:2] == [70, 199]


def test_rows_that_are_no_distribution_draw_some_token() -> None:
    for value in (torch.nan, torch.inf, -torch.inf):
        for rule in ({}, RULES[-3]):
            logits = torch.full((3, 150), value)
            logits[1, 5:] = 1.0
            logits[2, 70] = 300.0
            assert all(0 <= t < 150 for t in chosen(logits, rows_of(3, 150, **rule)).tolist())


@few
@given(
    seed=st.integers(0, 2**32 - 1), vocab=st.sampled_from(VOCABULARIES),
    bad=st.sampled_from([None, torch.nan, torch.inf, -torch.inf]),
)  # fmt: skip
def test_measures_are_those_of_float64(seed: int, vocab: int, bad: float | None) -> None:
    """What is not finite is noticed, and in its row only; tied tokens share the better rank."""
    rng = np.random.default_rng(seed)
    logits = random_logits(rng, 4, vocab).clamp(min=-500)
    tokens = torch.from_numpy(rng.integers(vocab, size=4))
    if bad is not None:
        logits[2, int(rng.integers(vocab))] = bad
    *found, ranks, finite = (t.cpu() for t in measure_tokens(logits.to(DEVICE), tokens.to(DEVICE), tile=TILE))
    assert finite.tolist() == [True, True, bad is None, True]
    sound = finite.numpy()
    exact, picked = logits.numpy()[sound].astype(np.float64), tokens.numpy()[sound]
    log_p = log_softmax(exact, -1)
    largest, log_sum, entropy = (t.numpy()[sound] for t in found)
    assert (largest == exact.max(-1)).all()
    np.testing.assert_allclose(largest + log_sum.astype(np.float64), (exact - log_p)[:, 0], atol=2e-5)
    np.testing.assert_allclose(entropy, -(np.exp(log_p) * log_p).sum(-1), atol=2e-5)
    own = exact[np.arange(len(exact)), picked]
    assert ranks.numpy()[sound].tolist() == (1 + (exact > own[:, None]).sum(-1)).tolist()


@few
@given(seed=st.integers(0, 2**32 - 1), vocab=st.sampled_from(VOCABULARIES), k=st.sampled_from([1, 3, 9, DRAWN + 1]))
def test_the_most_likely_tokens_fall_and_ties_go_to_the_lowest_id(seed: int, vocab: int, k: int) -> None:
    k, logits = min(k, vocab), random_logits(np.random.default_rng(seed), 3, vocab)
    values, ids = (t.cpu() for t in top_tokens(logits.to(DEVICE), k, tile=TILE))
    order = np.argsort(-logits.numpy(), -1, kind="stable")[:, :k]
    assert ids.tolist() == order.tolist()
    assert torch.equal(values, logits.gather(-1, torch.from_numpy(order)))


@settings(max_examples=5 if DEVICE == "cpu" else 100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), vocab=st.sampled_from([5, 64, 150]), apart=st.integers(0, 4))
def test_a_rows_bits_are_its_own(seed: int, vocab: int, apart: int) -> None:
    """In company, alone, in another order, beside a row that is no distribution, and however far apart rows lie."""
    rng = np.random.default_rng(seed)
    logits, rows = random_logits(rng, 4, vocab), random_rows(rng, 4, vocab)
    logits[3] = torch.nan

    def run(order: list[int], apart: int) -> list[torch.Tensor]:
        place = torch.empty(len(order), vocab + apart, device=DEVICE)[:, :vocab]
        place.copy_(logits[order])
        rules = [r[order] for r in parameters(rows)]
        tokens = choose_tokens(place, *rules, truncates=True, all_greedy=False, tile=TILE)
        return [tokens, *measure_tokens(place, tokens, tile=TILE), *top_tokens(place, 3, tile=TILE)]

    whole = run([0, 1, 2, 3], 0)
    for order in ([2], [1, 0], [3, 2, 1, 0]):
        for one, other in zip(run(order, apart), whole, strict=True):
            alike = [i for i in range(len(order)) if order[i] != 3]
            assert one[alike].view(torch.uint8).tolist() == other[[order[i] for i in alike]].view(torch.uint8).tolist()


@slow_if_interpreted
def test_a_real_vocabulary() -> None:
    rng = np.random.default_rng(3)
    logits = torch.from_numpy(rng.normal(0, 3, (2, 50_257)).astype(np.float32))
    rows = rows_of(2, 50_257, top_p=0.9, uniform=np.array([0.1, LAST]))
    kept = kept_of(logits, rows, 2048)
    for i in range(2):
        exact, near = exactly_kept(logits[i].numpy(), 1.0, 50_257, float(rows.top_p[i]), -np.inf)
        assert (kept[i].numpy() == exact)[~near].all()
    tokens = chosen(logits, rows, 4096)
    assert_inverted(logits, kept, rows, tokens)
    most, log_sum, *_ = (t.cpu() for t in measure_tokens(logits.to(DEVICE), tokens.to(DEVICE)))
    torch.testing.assert_close((most + log_sum).double(), logits.double().logsumexp(-1), rtol=1e-6, atol=1e-5)
    assert top_tokens(logits.to(DEVICE), 5)[1].tolist() == logits.topk(5).indices.tolist()


def test_the_engine_uses_them_where_they_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, rows = torch.randn(2, 40, generator=torch.Generator().manual_seed(1)), rows_of(2, 40, top_k=5)
    plain = stats.compute(
        ["rank", "entropy", "logprob", "top_logprobs"], stats.Distribution(logits, torch.arange(2), 3)
    )
    monkeypatch.setattr(gpu, "DEVICES", {DEVICE})
    monkeypatch.setattr(gpu, "works", lambda _: True)
    monkeypatch.setattr("pipeline.engine.native.serves", lambda _: pytest.fail("the CPU's kernels were asked"))
    names = "greedy", "temperature", "top_k", "top_p", "log_min_p", "uniform"
    tensors: dict[str, Any] = {name: getattr(rows, name).to(DEVICE) for name in names}
    moved = replace(rows, **tensors, truncates=True, all_greedy=False)
    assert sampler.sample(logits.to(DEVICE), moved).tolist() == sample_by_torch(logits, rows).tolist()
    ours = stats.Distribution(logits.to(DEVICE), torch.arange(2).to(DEVICE), 3)
    for name, column in stats.compute(["rank", "entropy", "logprob", "top_logprobs"], ours).items():
        torch.testing.assert_close(column.cpu(), plain[name], rtol=1e-5, atol=1e-5)


def test_the_check_passes_and_fails_when_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cpu":
        monkeypatch.setattr(sampler_check, "ROWS", 4)
        monkeypatch.setattr(sampler_check, "COPIES", 2)
    device = torch.device(DEVICE)
    assert sampler_check.kernels_are_right(70, device)

    def next_to_it(*args: Any, **options: Any) -> torch.Tensor:
        return (choose_tokens(*args, **options) + 1) % 70

    def neighbourly(logits: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
        most, log_sum, *others = measure_tokens(logits, tokens)
        return most, log_sum * (1 + 1e-6 * len(logits)), *others

    def broken(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("no compiler")

    for name, fault in (("choose_tokens", next_to_it), ("measure_tokens", neighbourly), ("top_tokens", broken)):
        with monkeypatch.context() as patch:
            patch.setattr(sampler_check, name, fault)
            assert not sampler_check.kernels_are_right(70, device)
