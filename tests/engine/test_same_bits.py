"""A request gives the same bits alone and in any company: the promise on which resuming and replaying rest."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import CONTEXT, Tiny, bits, drain, random_prompts, request

from pipeline.types import Completion, Request

MakeTiny = Callable[..., Tiny]
VOCAB = 1056
"""More than the 512 that top-p looks at first, so that flat rows take the full sort."""
INNER = 512
"""From 136 tokens a step on, three threads share the activations, at places that are not whole vectors."""
MAX_LEN = 123
"""No multiple of the attention's 32."""
MODELS = [(f, q) for f in ("gpt2", "llama") for q in ("none", "int8")]
PROMPTS = random_prompts(11, [1, 2, 31, 32, 33, 64, 65, 97, 5, 90, 118, 122, 17, 48], VOCAB)
SAMPLING: list[dict[str, Any]] = [
    {"max_tokens": 40, "ignore_eos": True},
    {"temperature": 1.0, "max_tokens": 35},
    {"temperature": 0.7, "top_k": 20, "max_tokens": 12},
    {"temperature": 9.0, "top_p": 0.97, "max_tokens": 9},  # flat: needs the full sort
    {"temperature": 1.3, "min_p": 0.02, "max_tokens": 20},
    {"temperature": 1.0, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2},
    {"temperature": 2.0, "top_k": 700, "top_p": 0.9, "min_p": 0.001, "seed": 7},
    {"temperature": 1.0, "stop": ["a", "e", "\n"], "min_tokens": 3},
    {"temperature": 1.5, "stop_token_ids": list(range(0, VOCAB, 9)), "min_tokens": 5},
    {"repetition_penalty": 1.8, "ignore_eos": True, "max_tokens": 30},
    {"temperature": 1.0}, {"temperature": 3.0, "ignore_eos": True},
    {"temperature": 0.3, "top_p": 0.5, "max_tokens": 30}, {"max_tokens": 1},
]  # fmt: skip
POOL = [request(f"row-{i}", p, i % 3, **s) for i, (p, s) in enumerate(zip(PROMPTS, SAMPLING, strict=True))]
STATS = {"top_logprobs": 3}


@pytest.fixture(scope="session")
def alone(tiny: MakeTiny) -> Callable[[str, str], list[Completion]]:
    """The pool's completions, each request alone in an engine of its own, with one thread."""

    @functools.cache
    def run(family: str, quantization: str) -> list[Completion]:
        torch.set_num_threads(1)
        model = tiny(family, vocab=VOCAB, inner=INNER)
        done = []
        for one in POOL:
            engine = model.engine(1, max_len=MAX_LEN, quantization=quantization, prompt_logprobs=True, **STATS)
            done += drain(engine, [one]).values()
        assert all(len(c.prompt_token_logprobs) == len(c.request.prompt_token_ids) for c in done)
        return done

    return run


@st.composite
def neighbours(draw: st.DrawFn) -> list[Request]:
    """Requests that are not looked at."""
    seed, count = draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 12))
    lengths = draw(st.lists(st.integers(1, MAX_LEN - 1), min_size=count, max_size=count))
    chosen = draw(st.lists(st.sampled_from(SAMPLING), min_size=count, max_size=count))
    prompts = random_prompts(seed, lengths, VOCAB)
    return [request(f"other-{i}", p, **s) for i, (p, s) in enumerate(zip(prompts, chosen, strict=True))]


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[list[Request], int]]:
    """Some of the pool among neighbours in some order, in several calls with some steps between them."""
    some = draw(st.lists(st.sampled_from(POOL), min_size=1, unique_by=lambda r: r.row_id))
    queue = draw(st.permutations([*some, *draw(neighbours())]))
    cuts = sorted(draw(st.lists(st.integers(0, len(queue)), max_size=3)))
    pieces = [queue[a:b] for a, b in zip([0, *cuts], [*cuts, len(queue)], strict=True)]
    return [(piece, draw(st.integers(0, 12))) for piece in pieces]


def company(
    model: Tiny, quantization: str, calls: list[tuple[list[Request], int]], slots: int, tokens: int, prompt: bool
) -> dict[tuple[str, int], Completion]:
    engine = model.engine(
        slots, max_len=MAX_LEN, tokens=tokens, quantization=quantization, prompt_logprobs=prompt, **STATS
    )
    done = []
    for requests, steps in calls:
        engine.add(requests)
        for _ in range(steps):
            done += engine.step()
    while any(engine.load()):
        done += engine.step()
    assert len(done) == sum(len(requests) for requests, _ in calls)
    return {(c.request.row_id, c.request.sample_index): c for c in done}


def check_same_bits(tiny: MakeTiny, alone: Any, family: str, quantization: str, examples: int) -> None:
    model, reference = tiny(family, vocab=VOCAB, inner=INNER), alone(family, quantization)
    model.loaded(quantization)

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
    )  # fmt: skip
    @given(
        calls=arrivals(), slots=st.sampled_from([16, 3, 1]), tokens=st.sampled_from([256, 64, 32]),
        threads=st.sampled_from([3, 2, 1]), prompt=st.booleans(),
    )  # fmt: skip
    def same(calls: list[tuple[list[Request], int]], slots: int, tokens: int, threads: int, prompt: bool) -> None:
        torch.set_num_threads(threads)
        done = company(model, quantization, calls, slots, tokens, prompt)
        for before in reference:
            name = (before.request.row_id, before.request.sample_index)
            if name in done:
                assert bits(done[name], prompt=prompt) == bits(before, prompt=prompt), name
                assert (done[name].prompt_token_logprobs is not None) == prompt

    same()


@pytest.mark.parametrize(("family", "quantization"), MODELS)
def test_the_same_bits_in_any_company(tiny: MakeTiny, alone: Any, family: str, quantization: str) -> None:
    check_same_bits(tiny, alone, family, quantization, examples=10)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "quantization"), MODELS)
def test_the_same_bits_in_very_much_company(tiny: MakeTiny, alone: Any, family: str, quantization: str) -> None:
    check_same_bits(tiny, alone, family, quantization, examples=100)


@pytest.mark.parametrize(("family", "quantization"), MODELS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_whole_pool_at_once(tiny: MakeTiny, alone: Any, family: str, quantization: str, threads: int) -> None:
    """The largest steps: more prompt tokens wait than a step takes, and all rules meet in one batch."""
    reference = alone(family, quantization)
    torch.set_num_threads(threads)
    model = tiny(family, vocab=VOCAB, inner=INNER)
    done = company(model, quantization, [(POOL, 0)], 16, 256, True)
    for before in reference:
        name = (before.request.row_id, before.request.sample_index)
        assert bits(done[name], prompt=True) == bits(before, prompt=True), name


def test_the_pool_is_worth_testing(alone: Any) -> None:
    """Several tokens, several ends, no two completions alike, and nothing that is all the same."""
    done = alone("gpt2", "none")
    assert sum(len(c.token_ids) for c in done) > 150
    assert {str(c.finish_reason) for c in done} == {"stop", "length"}
    assert len({c.token_ids for c in done}) > 10
    assert len({float(v) for c in done for v in c.statistics["token_logprobs"]}) > 100
    assert max(len(c.request.prompt_token_ids) for c in done) == MAX_LEN - 1 < CONTEXT
