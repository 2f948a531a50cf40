"""Statistics equal a float64 forward pass of the whole sequence by transformers' own model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import entropy as scipy_entropy

from pipeline.engine.layers.stats import STATISTICS, Distribution, Values, compute, statistic, token_logprobs
from pipeline.statistics import STATISTICS as DECLARED
from pipeline.statistics import TokenStatistic
from pipeline.types import Completion
from tests.engine.small.attention_cases import needs_kernels
from tests.engine.small.sampling_cases import WAYS, chosen_by
from tests.engine.small.tiny_models import FAMILIES, Tiny, drain, random_prompts, request, without_kernels
from tests.example_counts import examples

MakeTiny = Callable[..., Tiny]
TOP = 4
CLOSE = 1e-5
"""Float64 logits that lie closer than this may change places in float32."""


def check_statistics(model: Tiny, completion: Completion) -> None:
    prompt, ids = completion.request.prompt_token_ids, completion.token_ids
    logits = model.exact_logits([*prompt, *ids])[len(prompt) - 1 : -1]
    assert len(logits) == len(ids) > 0
    expected = log_softmax(logits, -1)
    rows = np.arange(len(ids))
    found = completion.statistics
    assert found["token_logprobs"].dtype == found["token_entropies"].dtype == np.float32
    np.testing.assert_allclose(found["token_logprobs"], expected[rows, ids], atol=1e-4)
    np.testing.assert_allclose(found["token_entropies"], scipy_entropy(np.exp(expected), axis=-1), atol=1e-4)
    own = logits[rows, ids][:, None]
    assert found["token_ranks"].dtype == np.int32
    assert (found["token_ranks"] >= 1 + (logits > own + CLOSE).sum(-1)).all()
    assert (found["token_ranks"] <= 1 + (logits > own - CLOSE).sum(-1) - 1).all()  # itself does not count
    assert found["top_token_ids"].shape == found["top_token_logprobs"].shape == (len(ids), TOP)
    np.testing.assert_allclose(found["top_token_logprobs"], -np.sort(-expected, -1)[:, :TOP], atol=1e-4)
    at_ids = np.take_along_axis(expected, found["top_token_ids"].astype(np.int64), -1)
    np.testing.assert_allclose(found["top_token_logprobs"], at_ids, atol=1e-4)
    assert all(len(set(row)) == TOP for row in found["top_token_ids"].tolist())


def check_prompt_logprobs(model: Tiny, completion: Completion) -> None:
    prompt = completion.request.prompt_token_ids
    expected = log_softmax(model.exact_logits(prompt), -1)[np.arange(len(prompt) - 1), prompt[1:]]
    found = completion.prompt_token_logprobs
    assert found.dtype == np.float32 and found.shape == (len(prompt),)
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1:], expected, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_are_those_of_a_float64_pass(tiny: MakeTiny, family: str) -> None:
    model = tiny(family)
    rules: list[dict[str, Any]] = [
        {}, {"temperature": 1.0}, {"temperature": 3.0, "top_k": 40, "repetition_penalty": 1.5},
        {"temperature": 1.0, "top_p": 0.8, "presence_penalty": 1.0, "stop_token_ids": [5], "min_tokens": 8},
    ]  # fmt: skip
    lengths = [1, 2, 31, 32, 33, 64, 65, 100, 115]
    prompts = random_prompts(5, lengths)
    requests = [request(str(i), p, max_tokens=12, **rules[i % 4]) for i, p in enumerate(prompts)]
    for engine in (
        model.engine(4, tokens=64, top_logprobs=TOP, prompt_logprobs=True),
        model.static(4, top_logprobs=TOP, prompt_logprobs=True),
    ):
        for completion in drain(engine, requests).values():
            check_statistics(model, completion)
            check_prompt_logprobs(model, completion)


def test_only_what_is_asked_for_is_computed(tiny: MakeTiny) -> None:
    for make in (tiny().engine, tiny().static):
        plain = drain(make(columns=[]), [request("a", [5, 6])])["a", 0]
        assert list(plain.statistics) == ["token_logprobs"]  # the cumulative one is its sum
        assert plain.prompt_token_logprobs is None
        more = drain(make(columns=["rank"], top_logprobs=2), [request("a", [5, 6])])["a", 0]
        assert set(more.statistics) == {"token_logprobs", "token_ranks", "top_token_ids", "top_token_logprobs"}


def test_the_most_likely_token_has_rank_one(tiny: MakeTiny) -> None:
    done = drain(tiny().engine(top_logprobs=1), [request("a", [5, 6], ignore_eos=True)])["a", 0]
    assert set(done.statistics["token_ranks"].tolist()) == {1}
    assert done.statistics["top_token_ids"][:, 0].tolist() == list(done.token_ids)
    assert done.statistics["top_token_logprobs"][:, 0].tobytes() == done.statistics["token_logprobs"].tobytes()


def test_tied_tokens_share_the_better_rank() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0]] * 4)
    d = Distribution(logits, torch.arange(4))
    assert compute(["rank"], d)["token_ranks"].tolist() == [3, 1, 1, 4]


def test_the_entropy_of_certainty_is_zero_and_of_ignorance_log_v() -> None:
    logits = torch.stack([torch.zeros(300), torch.full((300,), -2000.0).index_fill(0, torch.tensor(7), 0.0)])
    d = Distribution(logits, torch.tensor([7, 7]))
    entropies = compute(["entropy"], d)["token_entropies"]
    assert entropies.tolist() == pytest.approx([np.log(300), 0.0], abs=1e-5)


@pytest.fixture
def margin() -> Iterator[str]:
    """A statistic of the user's own: the best logit less the token's."""

    @statistic("margin")
    def _margin(d: Distribution) -> Values:
        return {"token_margins": d.logits.amax(-1) - d.logits.gather(-1, d.tokens[:, None])[:, 0]}

    yield "margin"
    del STATISTICS["margin"]


def test_a_new_statistic_takes_one_function(tiny: MakeTiny, margin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line = TokenStatistic(margin, "token_margins", "the best logit less the token's", lambda tokens: (0.0, np.inf))
    monkeypatch.setitem(DECLARED, margin, line)
    engine = tiny().engine(columns=["rank", margin])
    done = drain(engine, [request("a", [5, 6], temperature=1.0, max_tokens=20)])["a", 0]
    margins, ranks = done.statistics["token_margins"], done.statistics["token_ranks"]
    assert len(margins) == len(done.token_ids)
    assert ((margins == 0) == (ranks == 1)).all()


def test_the_registry_holds_the_documented_statistics() -> None:
    assert set(STATISTICS) == {*DECLARED, "top_logprobs"}


@needs_kernels
@settings(max_examples=examples(100), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), vocab=st.sampled_from([1, 2, 15, 16, 17, 300, 1024, 1025, 3000]),
    spread=st.sampled_from([0.01, 1.0, 30.0]), bad=st.sampled_from([None, torch.nan, torch.inf, -torch.inf]),
)  # fmt: skip
def test_both_ways_measure_the_same(seed: int, vocab: int, spread: float, bad: float | None) -> None:
    """To rounding; compiled, also the same bits alone and in company. What is not finite is noticed, and in its row only."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, vocab, generator=draw) * spread + 3
    tokens = torch.randint(vocab, (5,), generator=draw)
    if bad is not None:
        logits[2, int(torch.randint(vocab, (1,), generator=draw))] = bad
    compiled = Distribution(logits, tokens).measures
    with without_kernels():
        plain = Distribution(logits, tokens).measures
    assert compiled.finite.tolist() == plain.finite.tolist() == [True, True, bad is None, True, True]
    sound = compiled.finite
    for name in ("most", "log_sum", "entropies", "ranks"):
        one, other = (getattr(m, name)[sound] for m in (compiled, plain))
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    alone = [Distribution(logits[i : i + 1], tokens[i : i + 1]).measures for i in range(5)]
    for name in ("most", "log_sum", "entropies", "ranks"):
        assert torch.equal(torch.cat([getattr(m, name) for m in alone])[sound], getattr(compiled, name)[sound])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("vocab", [1000, 49_152, 262_144])
def test_log_probabilities_are_those_of_float64_whatever_the_vocabulary(way: str, vocab: int) -> None:
    """A sum of so many float32 numbers one after the other would shift every one of them by 2e-5 and more."""
    draw = torch.Generator().manual_seed(vocab)
    logits, tokens = 2 * torch.randn(12, vocab, generator=draw), torch.randint(vocab, (12,), generator=draw)
    exact = torch.log_softmax(logits.double(), -1).gather(-1, tokens[:, None])[:, 0]
    with chosen_by(way):
        found = token_logprobs(logits, tokens)
        alone = torch.cat([token_logprobs(logits[i : i + 1], tokens[i : i + 1]) for i in range(12)])
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-6)  # one unit of the last place of 14 is 1e-6
    assert abs((found - exact).mean().item()) < 5e-7
    assert torch.equal(alone, found)
