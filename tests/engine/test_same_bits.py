"""A request gives the same bits alone and in any company: the promise on which resuming and replaying rest.

Alone means: in an engine of its own, with one thread, and nothing shared with anyone. In 16 bits some products are the
library's at 32 rows, to whose promise the number of threads belongs: there it means with the same threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.engine.scheduler import Step
from pipeline.engine.steps.runner import ModelRunner
from pipeline.types import Completion, Request
from tests.engine.small.attention_cases import needs_kernels
from tests.engine.small.tiny_models import CONTEXT, Tiny, bits, drain, random_prompts, request, without_kernels

MakeTiny = Callable[..., Tiny]
VOCAB = 1056
"""More than the 512 that top-p looks at first, so that flat rows take the full sort."""
INNER = 512
"""From 136 tokens a step on, three threads share the activations, at places that are not whole vectors."""
MAX_LEN = 123
"""No multiple of the attention's 32."""
PROMPTS = random_prompts(11, [1, 2, 31, 32, 33, 64, 65, 97, 5, 90, 118, 122, 17, 48], VOCAB)
SAMPLING: list[dict[str, Any]] = [
    {"max_tokens": 34, "ignore_eos": True},
    {"temperature": 1.0, "max_tokens": 17},
    {"temperature": 0.7, "top_k": 20, "max_tokens": 12},
    {"temperature": 9.0, "top_p": 0.97, "max_tokens": 9},  # flat: needs the full sort
    {"temperature": 1.3, "min_p": 0.02, "max_tokens": 20},
    {"temperature": 1.0, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2},
    {"temperature": 2.0, "top_k": 700, "top_p": 0.9, "min_p": 0.001, "seed": 7},
    {"temperature": 1.0, "stop": ["a", "e", "\n"], "min_tokens": 3},
    {"temperature": 1.5, "stop_token_ids": list(range(0, VOCAB, 9)), "min_tokens": 5},
    {"repetition_penalty": 1.8, "ignore_eos": True, "max_tokens": 20},
    {"temperature": 1.0}, {"temperature": 3.0, "ignore_eos": True},
    {"temperature": 0.3, "top_p": 0.5, "max_tokens": 15}, {"max_tokens": 1},
]  # fmt: skip
SAMPLING = [{"max_tokens": 16, **sampling} for sampling in SAMPLING]
HEADER = random_prompts(12, [66], VOCAB)[0]
ALIKE = [HEADER[:n] for n in (32, 33, 64, 65)] + [HEADER[:64] + p for p in random_prompts(13, [1, 31, 32, 33], VOCAB)]
POOL = [request(f"row-{i}", p, i % 3, **s) for i, (p, s) in enumerate(zip(PROMPTS, SAMPLING, strict=True))]
POOL += [request(f"alike-{i}", p, **SAMPLING[i]) for i, p in enumerate(ALIKE)]
POOL += [request("samples", HEADER[:50], i, **SAMPLING[1]) for i in range(5)]
POOL += [request("samples of whole blocks", HEADER[:64], i, **SAMPLING[1]) for i in range(4)]
STATS: dict[str, Any] = {"top_logprobs": 3}


@cache
def _model(folder: Path, compiled: bool, threads: int) -> Tiny:
    """A model of its own for each way of computing: it keeps what it was loaded with."""
    return Tiny(folder)


class Kind(NamedTuple):
    """What the bits may depend on."""

    family: str
    quantization: str
    compiled: bool
    dtype: str = "float32"
    threads: int = 0
    """0: any number."""

    def model(self, tiny: MakeTiny) -> Tiny:
        return _model(tiny(self.family, vocab=VOCAB, inner=INNER).folder, self.compiled, self.threads)

    def loading(self) -> dict[str, str]:
        return {"quantization": self.quantization, "dtype": self.dtype}

    def way(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.compiled else without_kernels()


KINDS = [
    pytest.param(Kind(f, q, c), marks=needs_kernels if c else (), id=f"{f}-{q}-{'native' if c else 'torch'}")
    for f in ("gpt2", "llama") for q in ("none", "int8") for c in (True, False)
]  # fmt: skip
HALF = [
    pytest.param(Kind(f, "none", c, d, n), marks=needs_kernels if c else (), id=f"{f}-{d}-{n}-{'native' if c else 'torch'}")
    for f in ("gpt2", "llama") for d in ("bfloat16", "float16") for c in (True, False) for n in (1, 2, 3)
]  # fmt: skip
FEW_HALF = [
    kind for kind in HALF
    if kind.id in ("gpt2-bfloat16-3-native", "llama-bfloat16-1-torch", "gpt2-float16-2-torch", "llama-float16-3-native")
]  # fmt: skip
"""Every two of family, type and way of computing meet."""
KV_DTYPES = ["auto", "bfloat16", "int8"]
Alone = Callable[[Kind, str, int], Completion]
Calls = list[tuple[list[Request], int]]


@pytest.fixture(scope="session")
def alone(tiny: MakeTiny) -> Alone:
    """The completion of a place in the pool, made alone when it is first asked for."""

    @cache
    def run(kind: Kind, kv: str, place: int) -> Completion:
        torch.set_num_threads(kind.threads or 1)
        options: dict[str, Any] = {"kv": kv, "prompt_logprobs": True, **kind.loading(), **STATS}
        with kind.way():
            engine = kind.model(tiny).engine(1, max_len=MAX_LEN, share=False, **options)
            (done,) = drain(engine, [POOL[place]]).values()
        assert done.prompt_token_logprobs is not None
        assert len(done.prompt_token_logprobs) == len(done.request.prompt_token_ids)
        return done

    return run


@st.composite
def neighbours(draw: st.DrawFn) -> list[Request]:
    """Requests that are not looked at."""
    seed, count = draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 12))
    lengths = draw(st.lists(st.integers(1, MAX_LEN - 1), min_size=count, max_size=count))
    chosen = draw(st.lists(st.sampled_from(SAMPLING), min_size=count, max_size=count))
    begin = draw(st.lists(st.sampled_from([0, 32, 64, 66]), min_size=count, max_size=count))
    prompts = [HEADER[:b] + p[b:] for p, b in zip(random_prompts(seed, lengths, VOCAB), begin, strict=True)]
    return [request(f"other-{i}", p, **s) for i, (p, s) in enumerate(zip(prompts, chosen, strict=True))]


@st.composite
def arrivals(draw: st.DrawFn) -> Calls:
    """Some of the pool among neighbours in some order, in several calls with some steps between them."""
    some = draw(st.lists(st.sampled_from(POOL), min_size=1, unique_by=lambda r: (r.row_id, r.sample_index)))
    queue = draw(st.permutations([*some, *draw(neighbours())]))
    cuts = sorted(draw(st.lists(st.integers(0, len(queue)), max_size=3)))
    pieces = [queue[a:b] for a, b in zip([0, *cuts], [*cuts, len(queue)], strict=True)]
    return [(piece, draw(st.integers(0, 12))) for piece in pieces]


def company(model: Tiny, calls: Calls, slots: int, **options: Any) -> dict[tuple[str, int], Completion]:
    engine = model.engine(slots, max_len=MAX_LEN, **options, **STATS)
    done = list[Completion]()
    for requests, steps in calls:
        engine.add(requests)
        for _ in range(steps):
            done += engine.step()
    while any(engine.load()):
        done += engine.step()
    assert len(done) == sum(len(requests) for requests, _ in calls)
    return {(c.request.row_id, c.request.sample_index): c for c in done}


def assert_same(done: dict[tuple[str, int], Completion], alone: Callable[[int], Completion], *, prompt: bool) -> None:
    for place, one in enumerate(POOL):
        name = (one.row_id, one.sample_index)
        if name in done:
            assert bits(done[name], prompt=prompt) == bits(alone(place), prompt=prompt), name
            assert (done[name].prompt_token_logprobs is not None) == prompt


def check_same_bits(
    tiny: MakeTiny, alone: Alone, kind: Kind, examples: int, kv_dtypes: Sequence[str] = KV_DTYPES
) -> None:
    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
    )  # fmt: skip
    @given(
        calls=arrivals(), slots=st.sampled_from([16, 3, 1]), tokens=st.sampled_from([256, 64, 32]),
        threads=st.sampled_from([3, 2, 1]), blocks=st.sampled_from([None, 4, 7, 12]), kv=st.sampled_from(kv_dtypes),
        prompt=st.sampled_from([False, False, True]), share=st.sampled_from([True, True, False]),
    )  # fmt: skip
    def same(calls: Calls, slots: int, threads: int, kv: str, prompt: bool, **options: Any) -> None:
        torch.set_num_threads(kind.threads or threads)
        done = company(kind.model(tiny), calls, slots, kv=kv, prompt_logprobs=prompt, **kind.loading(), **options)
        assert_same(done, partial(alone, kind, kv), prompt=prompt)

    with kind.way():
        same()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_in_any_company(tiny: MakeTiny, alone: Alone, kind: Kind) -> None:
    check_same_bits(tiny, alone, kind, examples=4 if kind.compiled else 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_in_very_much_company(tiny: MakeTiny, alone: Alone, kind: Kind) -> None:
    check_same_bits(tiny, alone, kind, examples=100)


@pytest.mark.parametrize("kind", FEW_HALF)
def test_the_same_bits_in_16_bits(tiny: MakeTiny, alone: Alone, kind: Kind) -> None:
    """And in one step for all, which few shapes of steps are like."""
    check_same_bits(tiny, alone, kind, examples=3 if kind.compiled else 1, kv_dtypes=["auto"])
    with kind.way():
        assert kind.model(tiny).loaded(**kind.loading()).batch_invariant
        done = company(kind.model(tiny), [(POOL, 0)], 27, **kind.loading())
        assert_same(done, partial(alone, kind, "auto"), prompt=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", HALF)
def test_the_same_bits_in_16_bits_in_very_much_company(tiny: MakeTiny, alone: Alone, kind: Kind) -> None:
    check_same_bits(tiny, alone, kind, examples=40)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_whole_pool_at_once(tiny: MakeTiny, alone: Alone, kind: Kind, threads: int) -> None:
    """The largest steps: more prompt tokens wait than a step takes, and all rules meet in one batch."""
    # every two of family, weights and way of computing meet the narrower cache
    halved = sum((kind.family == "gpt2", kind.quantization == "none", kind.compiled)) % 2 == 0
    for kv, share in (("auto", threads > 1), *([("bfloat16", threads == 1)] if halved else [])):
        torch.set_num_threads(threads)
        options: dict[str, Any] = {"kv": kv, "share": share, "prompt_logprobs": not share, **kind.loading()}
        with kind.way():
            done = company(kind.model(tiny), [(POOL, 0)], 16, **options)
        assert len(done) == len(POOL)
        assert_same(done, partial(alone, kind, kv), prompt=not share)


def test_the_pool_is_worth_testing(tiny: MakeTiny, alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tokens, several ends, no two completions alike, nothing that is all the same, and much that is shared."""
    kind = Kind("gpt2", "none", False)
    done = [alone(kind, "auto", place) for place in range(len(POOL))]
    assert sum(len(c.token_ids) for c in done) > 250
    assert {str(c.finish_reason) for c in done} == {"stop", "length"}
    assert len({c.token_ids for c in done}) > 20
    assert len({float(v) for c in done for v in c.statistics["token_logprobs"]}) > 200
    assert max(len(c.request.prompt_token_ids) for c in done) == MAX_LEN - 1 < CONTEXT
    halved = [alone(kind, "bfloat16", place) for place in range(len(POOL))]
    assert [bits(c) for c in halved] != [bits(c) for c in done], "or the cache's type would not matter"
    steps = list[Step]()
    run = ModelRunner.run

    def counted(self: ModelRunner, step: Step, *arguments: Any, **options: Any) -> torch.Tensor:
        steps.append(step)
        return run(self, step, *arguments, **options)

    monkeypatch.setattr(ModelRunner, "run", counted)
    company(kind.model(tiny), [(POOL, 0)], 16)
    computed = sum(c.length for s in steps for c in s.chunks)
    assert computed < sum(len(r.prompt_token_ids) for r in POOL) - 400
    assert sum(len(s.twins) for s in steps) >= 3
