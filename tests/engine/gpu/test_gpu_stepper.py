"""The whole engine on a GPU's kernels: the tokens that a processor chooses, and the same bits in every batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.layers.attention import TRITON
from pipeline.engine.steps.shapes import Shape
from pipeline.types import Completion, Request
from tests.engine.gpu.device import DEVICE, slow_if_interpreted
from tests.engine.gpu.stepping import engine, loaded
from tests.engine.small.tiny_models import Tiny, bits, drain, random_prompts, request
from tests.example_counts import examples

MakeTiny = Callable[..., Tiny]
HEADER = random_prompts(27, [34])[0]
RULES: list[dict[str, Any]] = [
    {}, {"temperature": 0.9, "top_p": 0.8, "min_p": 0.02}, {"temperature": 1.0, "stop": ["a", "e"]}, {"temperature": 1.0},
    {"temperature": 1.0, "bad_words": ["a", "th"]}, {"temperature": 1.0, "regex": "[a-f]{2,9}"},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.4}, {"min_tokens": 3, "temperature": 1.3},
    {"temperature": 1.0, "top_k": 4},
]  # fmt: skip
if find_spec("llguidance") is None:  # the machine may have what the engine needs, and nothing else
    RULES = [{k: v for k, v in rules.items() if k != "regex"} for rules in RULES]
PROMPTS = [HEADER + p for p in random_prompts(28, [1, 30])] + random_prompts(29, [9, 31, 32, 33, 5, 64, 3])
POOL = [
    request(f"row-{i}", prompt, sample, **{"max_tokens": 3 + i % 3, **rules})
    for i, (prompt, rules) in enumerate(zip(PROMPTS, RULES, strict=True))
    for sample in range(2 if i == 3 else 1)
]  # fmt: skip


def run(tiny: Tiny, requests: list[Request] = POOL, slots: int = 4, **options: Any) -> dict[Any, Completion]:
    with engine(tiny, slots, **options) as made:
        done = drain(made, requests)
        assert made.load() == (0, 0) and made.room.kv_blocks_used == 0
    return done


def one_layer(tiny: MakeTiny) -> Tiny:
    """The model of most of these tests: the interpreter takes a second for a step of two layers."""
    return tiny(layers=1)


@pytest.fixture(scope="session")
def reference(tiny: MakeTiny) -> dict[Any, Completion]:
    return run(one_layer(tiny), slots=3, top_logprobs=2)


def test_the_kernels_are_used(tiny: MakeTiny) -> None:
    assert (loaded(one_layer(tiny)).attention, loaded(one_layer(tiny)).batch_invariant) == (TRITON, True)


def compare(found: dict[Any, Completion], expected: dict[Any, Completion]) -> None:
    """The same tokens, and statistics that are the same but for rounding."""
    assert found.keys() == expected.keys()
    for name, one in found.items():
        other = expected[name]
        assert (one.token_ids, one.text, one.finish_reason) == (other.token_ids, other.text, other.finish_reason)
        assert one.statistics.keys() == other.statistics.keys()
        for column, values in one.statistics.items():
            np.testing.assert_allclose(values, other.statistics[column], rtol=1e-3, atol=1e-3)


def test_what_a_processor_chooses(tiny: MakeTiny, reference: dict[Any, Completion]) -> None:
    compare(reference, drain(one_layer(tiny).engine(4, top_logprobs=2), POOL))


def test_given_tokens_are_scored(tiny: MakeTiny) -> None:
    scored = [
        replace(request(f"row-{i}", prompt), scored_from=1 + i % 2 * (len(prompt) // 2))
        for i, prompt in enumerate(PROMPTS) if len(prompt) > 1
    ]  # fmt: skip
    found = run(one_layer(tiny), scored, slots=3, tokens=64, top_logprobs=2)
    compare(found, drain(one_layer(tiny).engine(4, top_logprobs=2), scored))
    for asked in scored[:3]:
        alone = run(one_layer(tiny), [asked], slots=1, top_logprobs=2)
        assert bits(alone[asked.row_id, 0]) == bits(found[asked.row_id, 0])


@pytest.mark.parametrize(("family", "kv"), [("gpt2", "int8"), ("llama", "auto")])
@slow_if_interpreted
def test_what_a_processor_chooses_of_others(tiny: MakeTiny, family: str, kv: str) -> None:
    compare(run(tiny(family), POOL[:3], kv=kv), drain(tiny(family).engine(4, kv=kv), POOL[:3]))


CASES = given(
    chosen=st.permutations(range(len(POOL))), count=st.integers(1, len(POOL)), slots=st.sampled_from([1, 7, 16]),
    tokens=st.sampled_from([32, 256]), blocks=st.sampled_from([None, 9]), share=st.booleans(),
)  # fmt: skip


def check_bits(
    tiny: Tiny, reference: dict[Any, Completion], chosen: list[int], count: int, slots: int, **options: Any
) -> None:
    done = run(tiny, [POOL[i] for i in chosen[:count]], slots, top_logprobs=2, **options)
    assert {n: bits(c) for n, c in done.items()} == {n: bits(reference[n]) for n in done}


@settings(max_examples=2, deadline=None)
@CASES
def test_the_same_bits_in_every_batch(tiny: MakeTiny, reference: dict[Any, Completion], **case: Any) -> None:
    check_bits(one_layer(tiny), reference, **case)


@pytest.mark.slow
@settings(max_examples=examples(60), deadline=None)
@CASES
def test_the_same_bits_in_many_batches(tiny: MakeTiny, reference: dict[Any, Completion], **case: Any) -> None:
    check_bits(one_layer(tiny), reference, **case)


def test_prompts_can_be_measured(tiny: MakeTiny) -> None:
    requests = [request(str(i), p, max_tokens=2) for i, p in enumerate(random_prompts(5, [1, 20, 33]))]
    expected = drain(one_layer(tiny).engine(2, prompt_logprobs=True), requests)
    for name, found in run(one_layer(tiny), requests, 2, prompt_logprobs=True).items():
        assert found.token_ids == expected[name].token_ids
        assert found.prompt_token_logprobs is not None
        np.testing.assert_allclose(found.prompt_token_logprobs, expected[name].prompt_token_logprobs, atol=1e-4)


def test_many_steps_are_few_recordings(tiny: MakeTiny) -> None:
    with engine(one_layer(tiny), 3) as made:
        drain(made, [request(str(i), [5 + i, 6], max_tokens=8, ignore_eos=True) for i in range(6)])
        recordings: Any = made.stepper._recordings  # type: ignore[attr-defined]
        assert recordings.replays > 12 and len(recordings.functions) < 10


@pytest.mark.parametrize("place", ["model", pytest.param("sampling", marks=pytest.mark.slow)])
def test_fault_8_memory_that_is_out_changes_no_bit(
    tiny: MakeTiny, reference: dict[Any, Completion], place: str
) -> None:
    """Everything starts again while a step is in flight: first without recordings, then with half as many sequences."""
    with engine(one_layer(tiny), 4, top_logprobs=2) as made:
        recordings: Any = made.stepper._recordings  # type: ignore[attr-defined]
        run, calls = recordings.run, 0

        def failing(what: str, key: Any, function: Any) -> Any:
            nonlocal calls
            calls += isinstance(key, Shape) == (place == "model")
            if calls in (4, 8):
                calls += 1
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return run(what, key, function)

        recordings.run = failing
        seen, step = [], made._scheduler.schedule

        def schedule() -> Any:
            seen.append((recordings._dropped, made.room.max_num_seqs, made._scheduler._max_batched_tokens))
            return step()

        made._scheduler.schedule = schedule  # type: ignore[method-assign]
        done = drain(made, POOL[:4])
        assert calls > 9
        assert list(dict.fromkeys(seen)) == [(False, 4, 256), (True, 4, 256), (True, 2, 128)]
    assert {n: bits(c) for n, c in done.items()} == {n: bits(reference[n]) for n in done}


@pytest.mark.skipif(DEVICE == "cpu", reason="only a GPU can be waited for")
def test_no_step_waits_for_the_device(tiny: MakeTiny) -> None:
    """But for results, and grammars' rows do not either: whatever copies from or to the host in between is an error."""
    with engine(one_layer(tiny), 8) as made:
        drain(made, POOL)  # every shape is recorded
        made.add(POOL)
        try:
            with warnings.catch_warnings(action="ignore"):  # torch says that this mode does not see everything
                torch.cuda.set_sync_debug_mode("error")
            while any(made.load()):
                made.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
