"""A host that is one step behind the device: the same bits, and what was known too late is lost on nobody."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.scheduler import Step
from pipeline.engine.steps.flight import Flight
from tests.engine.small.tiny_models import Tiny, bits, drain, random_prompts, request

MakeTiny = Callable[..., Tiny]
HEADER = random_prompts(17, [40])[0]
RULES: list[dict[str, Any]] = [
    {}, {"temperature": 0.9, "top_p": 0.8}, {"temperature": 1.0, "stop": ["a", "e"]}, {"min_tokens": 9, "temperature": 1.3},
    {"temperature": 1.0, "bad_words": ["a", "th"]}, {"temperature": 1.0, "regex": "[a-f]{2,9}"},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.4}, {"temperature": 1.0, "logit_bias": {70: 3.0}},
    {"temperature": 1.0, "top_k": 4, "ignore_eos": True},
]  # fmt: skip
POOL = [
    request(f"row-{i}", (HEADER if i % 3 == 0 else []) + prompt, sample, **{"max_tokens": 1 + 7 * i % 23, **rules})
    for i, (prompt, rules) in enumerate(zip(random_prompts(18, [1, 9, 31, 32, 33, 5, 64, 70, 3] * 2), RULES * 2, strict=True))
    for sample in range(1 + i % 2)
]  # fmt: skip


@pytest.fixture(scope="session")
def synchronous(tiny: MakeTiny) -> dict[tuple[str, int], dict[str, Any]]:
    return {n: bits(c) for n, c in drain(tiny().engine(8, tokens=64, top_logprobs=2), POOL).items()}


@settings(max_examples=12, deadline=None)
@given(
    chosen=st.sets(st.sampled_from(range(len(POOL))), min_size=1), slots=st.sampled_from([1, 3, 16]),
    tokens=st.sampled_from([32, 64]), blocks=st.sampled_from([None, 9]), share=st.booleans(),
)  # fmt: skip
def test_one_step_ahead_changes_no_bit(
    tiny: MakeTiny, synchronous: Any, chosen: set[int], slots: int, tokens: int, blocks: int | None, share: bool
) -> None:
    requests = [POOL[i] for i in sorted(chosen)]
    engine = tiny().engine(slots, tokens=tokens, blocks=blocks, share=share, ahead=True, top_logprobs=2)
    done = drain(engine, requests)
    assert {n: bits(c) for n, c in done.items()} == {n: synchronous[n] for n in done}
    assert engine.load() == (0, 0) and not engine._flights and engine.room.kv_blocks_used == 0


def test_the_next_step_is_launched_before_the_last_one_is_waited_for(tiny: MakeTiny) -> None:
    engine = tiny().engine(4, ahead=True)
    launch, events = engine.stepper.launch, list[tuple[str, int]]()

    def watched(step: Step) -> Flight:
        number = sum(kind == "launch" for kind, _ in events)
        events.append(("launch", number))
        flight = launch(step)

        def wait() -> Any:
            events.append(("wait", number))
            return flight.wait()

        return Flight(flight.sequences, wait)

    engine.stepper.launch = watched  # type: ignore[method-assign]
    drain(engine, [request(str(i), [5, 6, i + 1], max_tokens=4, ignore_eos=True) for i in range(3)])
    # three tokens more after the prompts' one; the length is known beforehand, so that no step is for nothing
    launches = [("launch", n) for n in range(4)]
    assert [e for e in events if e[0] == "launch"] == launches
    assert events == [("launch", 0), *[e for n in range(1, 4) for e in (("launch", n), ("wait", n - 1))], ("wait", 3)]


def test_what_needs_its_last_token_waits_for_it_alone(tiny: MakeTiny) -> None:
    """The one with forbidden words steps every other time; the other one is not held up."""
    engine = tiny().engine(4, ahead=True)
    launch, stepped = engine.stepper.launch, list[list[str]]()

    def watched(step: Step) -> Flight:
        stepped.append([s.request.row_id for s in step.choosing])
        return launch(step)

    engine.stepper.launch = watched  # type: ignore[method-assign]
    drain(engine, [
        request("free", [5, 6], max_tokens=8, ignore_eos=True),
        request("words", [7, 8], max_tokens=4, ignore_eos=True, bad_words=["a"]),
    ])  # fmt: skip
    assert [names.count("words") for names in stepped] == [1, 0, 1, 0, 1, 0, 1, 0]
    assert all("free" in names for names in stepped)


def test_one_that_ended_by_its_token_leaves_nothing_to_the_next(tiny: MakeTiny) -> None:
    """Its slot is taken while it is computed once more."""
    draw = random.Random(3)
    requests = [
        request(str(i), [draw.randrange(1, 300) for _ in range(draw.randrange(1, 40))], max_tokens=30, temperature=2.5,
                seed=i, stop=[chr(97 + i % 26), " "])
        for i in range(40)
    ]  # fmt: skip
    alone = {n: bits(c) for n, c in drain(tiny().engine(16), requests).items()}
    engine = tiny().engine(2, ahead=True)
    done = drain(engine, requests)
    assert {n: bits(c) for n, c in done.items()} == alone
    ended = sum(c.finish_reason == "stop" for c in done.values())
    assert ended > 10


def test_prompt_logprobs_come_along(tiny: MakeTiny) -> None:
    requests = [request(str(i), p, max_tokens=5) for i, p in enumerate(random_prompts(5, [1, 20, 33, 70]))]
    one, other = (
        {n: bits(c, prompt=True) for n, c in drain(tiny().engine(3, ahead=a, prompt_logprobs=True), requests).items()}
        for a in (False, True)
    )
    assert one == other


def test_waiting_is_told(tiny: MakeTiny) -> None:
    engine = tiny().engine(2, ahead=True)
    assert engine.waited == 0
    drain(engine, [request("a", [1, 2], max_tokens=3)])
    assert 0 < engine.waited < 60
    assert torch.is_inference_mode_enabled() is False
