"""Does a row come to the same bytes whatever runs beside it: one set of requests, run in many ways, compared bit for bit.

It does not know how the engine keeps that promise.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.gpu.bench import DEMO, Bench, finish
from pipeline.engine.base import BuiltEngine
from pipeline.types import Completion, Request, SamplingParams


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run the requests: sequences at once, their order, whether others run beside them, options of the engine."""

    seqs: int
    seed: int = 0
    neighbours: bool = False
    prefix_caching: bool = True
    step_tokens: int | None = None

    def __str__(self) -> str:
        """In words."""
        words = [f"{self.seqs} sequences", "shuffled" if self.seed else "", "others beside" if self.neighbours else ""]
        words += [
            "" if self.prefix_caching else "no prefix caching",
            f"{self.step_tokens} tokens a step" if self.step_tokens else "",
        ]
        return ", ".join(filter(None, words))


SMALL_WAYS = (
    Way(64), Way(3, 1), Way(256, 2, neighbours=True), Way(256, 3, neighbours=True, prefix_caching=False),
    Way(64, 4, step_tokens=64),
)  # fmt: skip
LARGE_WAYS = (Way(64), Way(256, 2, neighbours=True), Way(256, 3, prefix_caching=False), Way(5, 1))
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.8},
    "top-p": {"top_p": 0.9},
    "top-k": {"top_k": 40, "temperature": 1.3},
    "min-p": {"min_p": 0.05, "top_p": 0.95, "top_k": 100},
    "penalties": {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.3, "temperature": 0.7},
    "bias": {"logit_bias": {5: 4.0, 9: -100}, "min_tokens": 3, "stop_token_ids": [7, 11]},
    "stop": {"stop": ["e", " the"], "min_tokens": 5},
    "bad words": {"bad_words": [" the", "a"], "top_k": 20},
    "samples": {"n": 4, "top_p": 0.95},
}
"""Kind of request → its sampling parameters."""


def small(bench: Bench) -> None:
    """The embedded model, whose text has words to stop at, in each type."""
    for dtype in ("bfloat16", "float32", "float16"):
        ways = SMALL_WAYS if dtype != "float16" else SMALL_WAYS[:3]
        _compare(bench, partial(bench.engine, DEMO, dtype=dtype), dtype, ways, each=3, new=32)
    build = partial(bench.engine, DEMO, dtype="bfloat16", loading={"kv_cache_dtype": "int8"})
    _compare(bench, build, "bfloat16, int8 cache", SMALL_WAYS[:3], each=2, new=24)
    measured = partial(bench.engine, DEMO, dtype="bfloat16", stats={"prompt_logprobs": True, "top_logprobs": 3})
    _compare(bench, measured, "bfloat16, prompts measured", SMALL_WAYS[:3], each=2, new=8)
    bench.close()


def large(bench: Bench) -> None:
    """The large model in bfloat16, fewer requests."""
    _compare(bench, bench.large_engine, "large bfloat16", LARGE_WAYS, each=2, new=24)
    bench.close()


def _compare(
    bench: Bench, build: Callable[..., BuiltEngine], label: str, ways: tuple[Way, ...], *, each: int, new: int
) -> None:
    first: dict[tuple[str, int], tuple[Any, ...]] = {}
    tokens = errors = 0
    differing = []
    for way in ways:
        built = build(seqs=way.seqs, prefix_caching=way.prefix_caching, **_step(way))
        vocab, facts = built.tokenizer.vocab_size, f"batch_invariant: {built.facts['batch_invariant']}"
        asked = requests(each, new, vocab=vocab)
        every = asked + (neighbours(bench.scale.neighbours, vocab) if way.neighbours else [])
        random.Random(way.seed).shuffle(every)
        done = finish(built.engine, every)
        del built  # the next engine needs its memory
        found = {(r.row_id, r.sample_index): content(done[r.row_id, r.sample_index]) for r in asked}
        first = first or found
        tokens += sum(len(c.token_ids) for c in done.values())
        errors += sum(c.error is not None for c in done.values())
        others = [" ".join(map(str, key)) for key in first if first[key] != found[key]]
        bench.report.event("way", label=label, way=str(way), others=others)
        print(f"  {label}, {way}: {len(found) - len(others)} of {len(found)} same", flush=True)
        if others:
            differing.append(f"{way}: {len(others)} differ, as {others[0]}")
    good = not differing and not errors
    note = "; ".join([f"{len(first)} completions", f"{tokens} tokens in all, {errors} errors", facts, *differing])
    bench.report.row(label, f"{len(ways) - len(differing)} of {len(ways)}", "ways same", note, good)


def _step(way: Way) -> dict[str, int]:
    return {"max_num_batched_tokens": way.step_tokens} if way.step_tokens else {}


def requests(each: int, new: int, *, vocab: int) -> list[Request]:
    """`each` prompts of every kind: short ones, long ones, and some that begin alike."""
    draw = random.Random(1)
    beginning = [draw.randrange(1, vocab) for _ in range(96)]
    made = []
    for kind, values in KINDS.items():
        for number in range(each):
            own = [draw.randrange(1, vocab) for _ in range(draw.choice((1, 20, 31, 32, 33, 64, 90)))]
            prompt = beginning[: draw.choice((64, 80, 96))] + own if number % 2 else own
            sampling = SamplingParams(**({"max_tokens": new, "seed": number} | values))
            made += [Request(f"{kind} {number}", i, tuple(prompt), sampling) for i in range(sampling.n)]
    return made


def neighbours(count: int, vocab: int) -> list[Request]:
    """Other requests, of all kinds and lengths."""
    draw = random.Random(2)
    kinds = list(KINDS.values())
    return [
        Request(
            f"other {i}", 0, tuple(draw.randrange(1, vocab) for _ in range(draw.randint(1, 150))),
            SamplingParams(**({"max_tokens": draw.randint(5, 40), "seed": i} | kinds[i % len(kinds)] | {"n": 1})),
        )
        for i in range(count)
    ]  # fmt: skip


def content(completion: Completion) -> tuple[Any, ...]:
    """Everything that is written of a completion, with statistics as bytes."""
    arrays = dict(completion.statistics)
    if completion.prompt_token_logprobs is not None:
        arrays["prompt_token_logprobs"] = completion.prompt_token_logprobs
    statistics = sorted((name, values.dtype.str, values.tobytes()) for name, values in arrays.items())
    return (
        completion.token_ids, completion.text, completion.finish_reason, completion.stop_reason, completion.error,
        tuple(statistics),
    )  # fmt: skip
