"""Fault 8: memory that does not suffice costs time, and no bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.continuous import ContinuousEngine
from pipeline.engine.rules.stopping import StopWatch
from pipeline.engine.steps.record import Record
from pipeline.types import Completion
from tests.engine.small.tiny_models import Tiny, bits, drain, random_prompts, request
from tests.example_counts import examples

MakeTiny = Callable[..., Tiny]
HEADER = random_prompts(7, [64])[0]
PROMPTS = [HEADER + p for p in random_prompts(8, [1, 7, 32, 33])] + random_prompts(9, [1, 31, 32, 33, 70, 100])
POOL = [
    request(f"row-{i}", prompt, sample, temperature=i % 3 * 0.7, max_tokens=3 + 5 * i % 17, ignore_eos=i % 2 == 0,
            repetition_penalty=1 + i % 4 * 0.1)
    for i, prompt in enumerate(PROMPTS) for sample in range(1 + i % 2 * 2)
]  # fmt: skip


def torchs_own() -> RuntimeError:
    """What torch raises on a processor."""
    try:
        torch.empty(2**60, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError


ERRORS: list[Callable[[], Exception]] = [torchs_own, MemoryError, lambda: torch.OutOfMemoryError("CUDA out of memory.")]


def failing(call: Callable[..., Any], fails: Callable[[], bool], *, after: bool) -> Callable[..., Any]:
    """The call, with memory that is out now and then, before it has done its work or after."""

    def wrapped(*arguments: Any, **options: Any) -> Any:
        if not after and fails():
            raise random.choice(ERRORS)()
        result = call(*arguments, **options)
        if after and fails():
            raise random.choice(ERRORS)()
        return result

    return wrapped


@pytest.fixture(scope="session")
def undisturbed(tiny: MakeTiny) -> dict[bool, dict[tuple[str, int], dict[str, Any]]]:
    return {
        share: {n: bits(c) for n, c in drain(tiny().engine(8, share=share), POOL).items()} for share in (True, False)
    }


# Where a step can be interrupted: when a sequence begins, in the model, in choosing tokens, in the midst of finishing some.
PLACES = ["admit", "cache.copy", "run", "constrain", "record", "of", "text"]


@settings(max_examples=examples(20), deadline=None)
@given(
    seed=st.integers(0, 2**32), place=st.sampled_from(PLACES), after=st.booleans(), share=st.booleans(),
    slots=st.sampled_from([2, 5, 16]), blocks=st.sampled_from([None, 9]), ahead=st.booleans(),
)  # fmt: skip
def test_fault_8_memory_that_is_out_changes_no_bit(
    tiny: MakeTiny, undisturbed: Any, seed: int, place: str, after: bool, share: bool, slots: int, blocks: int | None,
    ahead: bool,
) -> None:  # fmt: skip
    engine = tiny().engine(slots, tokens=64, share=share, blocks=blocks, ahead=ahead)
    draw = random.Random(seed)
    failures = 0

    def fails() -> bool:
        nonlocal failures
        out = len(engine._scheduler.running) > 1 and draw.random() < 0.2
        failures += out
        return out

    owner: Any = {
        "admit": engine._state, "constrain": engine._state, "record": engine._state, "of": engine._record,
        "run": engine._runner, "cache.copy": engine._runner.cache, "text": StopWatch,
    }[place]  # fmt: skip
    name = place.rpartition(".")[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, failing(getattr(owner, name), fails, after=after))
        done = drain(engine, POOL)
    assert {n: bits(c) for n, c in done.items()} == undisturbed[share]
    assert engine.load() == (0, 0)
    assert engine.room.kv_blocks_used == 0
    assert engine._scheduler._pool.available == engine._runner.blocks
    if place == "run" and slots > 2:
        assert failures
    # half as many each time, so that it comes to an end
    assert failures <= slots.bit_length()


def test_sharing_changes_no_bit_there(undisturbed: Any) -> None:
    assert undisturbed[True] == undisturbed[False]


@pytest.mark.parametrize("error", ERRORS)
def test_fault_8_with_one_sequence_left_it_is_raised(tiny: MakeTiny, error: Callable[[], Exception]) -> None:
    engine = tiny().engine(4)
    made = error()

    def run(*_: Any, **__: Any) -> torch.Tensor:
        raise made

    engine._runner.run = run  # type: ignore[method-assign]
    engine.add(POOL[:4])
    assert [engine.step(), engine.step()] == [[], []]  # with 4 and with 2
    with pytest.raises(type(made)) as raised:
        engine.step()
    assert raised.value is made


def test_fault_8_other_errors_are_raised_at_once(tiny: MakeTiny) -> None:
    engine = tiny().engine(4)

    def run(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    engine._runner.run = run  # type: ignore[method-assign]
    engine.add(POOL[:4])
    with pytest.raises(RuntimeError, match="shapes"):
        engine.step()


def test_fault_8_what_ended_in_the_same_step_is_not_lost(tiny: MakeTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four end together; the memory for the third one's completion is not there."""
    engine, calls = tiny().engine(4), 0
    copied = Record.of

    def of(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError
        return copied(*arguments)

    monkeypatch.setattr(Record, "of", of)
    rows = [request(str(i), [5, 6, i], max_tokens=1) for i in range(4)]
    engine.add(rows)
    assert names(engine.step()) == ["0", "1"]
    assert engine.load() == (0, 2)
    assert engine.room.max_num_seqs == 1, "half of the two that ran"
    assert names(engine.step() + engine.step()) == ["2", "3"]


def names(completions: list[Completion]) -> list[str]:
    return [c.request.row_id for c in completions]


def test_fault_8_it_is_told(tiny: MakeTiny, caplog: pytest.LogCaptureFixture) -> None:
    engine: ContinuousEngine = tiny().engine(2)
    runs, real = 0, engine._runner.run

    def run(*arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise torchs_own()
        return real(*arguments, **options)

    engine._runner.run = run  # type: ignore[method-assign]
    drain(engine, POOL[:2])
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("out of memory: going on with fewer sequences at once (") and "\n" not in told
