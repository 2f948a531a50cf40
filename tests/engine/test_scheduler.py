"""The scheduler's promises, over random arrivals, without a model."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.cache.block_pool import BLOCK, BlockPool
from pipeline.engine.scheduler import FEW, Scheduler
from pipeline.engine.sequence import Sequence
from tests.engine.small.scheduled import Run, sequence
from tests.example_counts import examples

JOBS = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 12)), max_size=12)
CALLS = st.lists(st.tuples(JOBS, st.integers(0, 6)), min_size=1, max_size=4)
BUDGETS = st.sampled_from([32, 33, 64, 256])


def chunks(one: Sequence) -> int:
    return -(-one.prompt_len // BLOCK)


def in_order(new: list[Sequence]) -> list[Sequence]:
    return sorted(new, key=lambda s: -(s.prompt_len + s.max_new))


@settings(deadline=None)
@given(calls=CALLS, slots=st.integers(1, 9), budget=BUDGETS, spare=st.one_of(st.none(), st.integers(0, 12)))
def test_every_prompt_token_is_read_once_and_in_order(
    calls: list[tuple[list[tuple[int, int]], int]], slots: int, budget: int, spare: int | None
) -> None:
    """Without sharing, with room for all or for hardly more than the longest one."""
    jobs = [(number, i, job) for number, (some, _) in enumerate(calls) for i, job in enumerate(some)]
    all_of_them = {(number, i): sequence(f"{number}-{i}", *job) for number, i, job in jobs}
    least = max([s.blocks_needed for s in all_of_them.values()], default=1)
    run, longest = Run(slots, budget, 10_000 if spare is None else least + spare, share=False), list[Sequence]()
    for number, (_, steps) in enumerate(calls):
        new = [s for (call, _), s in all_of_them.items() if call == number]
        run.add(new)
        longest += in_order(new)
        for _ in range(steps):
            run.step()
    run.until_idle()
    assert run.computed == {s: set(range(s.prompt_len)) for s in run.everyone} and run.twins == 0
    assert run.order == longest  # calls are served first come, first served; within one the longest start first
    # nothing starves: every step does something, and all of it is bounded
    assert run.steps <= sum(steps for _, steps in calls) + sum(chunks(s) + s.max_new for s in run.everyone)


HEADERS = [[7] * 31, [7] * 32, [7] * 33, [7] * 64, [7] * 96 + [8], [8] * 64, [8] * 32 + [7] * 64]
TAILS = [[], [7], [8], [7] * 31, [9] * 32, [9] * 33, [8] * 40]
PROMPTS = st.tuples(st.sampled_from(HEADERS), st.sampled_from(TAILS)).map(lambda pair: pair[0] + pair[1])
ALIKE = st.lists(st.tuples(PROMPTS, st.integers(1, 40)), max_size=10)
Alike = list[tuple[list[tuple[list[int], int]], int]]


@settings(deadline=None, max_examples=examples(200))
@given(
    calls=st.lists(st.tuples(ALIKE, st.integers(0, 8)), min_size=1, max_size=4), slots=st.integers(1, 9), budget=BUDGETS,
    spare=st.integers(0, 12), failures=st.lists(st.one_of(st.none(), st.none(), st.integers(0, 300)), max_size=12),
)  # fmt: skip
def test_what_is_shared_is_what_would_have_been_computed(
    calls: Alike, slots: int, budget: int, spare: int, failures: list[int | None]
) -> None:
    """Prompts that begin alike or are equal, too few blocks for all of them, and memory that is out half-way through steps."""
    everyone = [[sequence(f"{n}-{i}", *job) for i, job in enumerate(some)] for n, (some, _) in enumerate(calls)]
    least = max([s.blocks_needed for some in everyone for s in some], default=1)
    run, todo = Run(slots, budget, least + spare), deque(failures)
    for some, (_, steps) in zip(everyone, calls, strict=True):
        run.add(some)
        for _ in range(steps):
            run.step(fail_after=todo.popleft() if todo and run.scheduler.running else None)
            run.check_memory()
    before = run.steps
    run.until_idle()
    assert run.steps - before <= sum(chunks(s) + s.max_new for s in run.everyone)
    assert run.order == [s for some in everyone for s in in_order(some)]
    for one, mine in run.computed.items():  # whole blocks, if any
        ends = {(p // BLOCK * BLOCK, min(p // BLOCK * BLOCK + BLOCK, one.prompt_len) - 1) for p in mine}
        assert {p for pair in ends for p in pair} <= mine


@pytest.mark.parametrize("header", [320, 330, 351])
@pytest.mark.parametrize("slots", [1, 3, 8])
@pytest.mark.parametrize("blocks", [14, 24, 1000])
def test_a_header_over_many_rows_is_computed_once(header: int, slots: int, blocks: int) -> None:
    """All of its blocks; what it has of a block with the rows' own words is computed with them."""
    tails = [[1000 + i] * (1 + 7 * i % 40) for i in range(60)]
    run = Run(slots, 64, blocks)
    for i in range(0, 60, 20):  # a shard after the other, as the worker hands them in
        run.add([sequence(str(i + j), [7] * header + tail, 5) for j, tail in enumerate(tails[i : i + 20])])
        for _ in range(3):
            run.step()
    run.until_idle()
    whole = header // BLOCK * BLOCK
    assert run.tokens == whole + sum(header - whole + len(tail) for tail in tails)


@pytest.mark.parametrize("prompt", [1, 31, 32, 33, 64, 65, 200])
def test_samples_of_one_prompt_are_read_once(prompt: int) -> None:
    """Those that start together need nothing; one that starts later needs the last block, as its logits are wanted."""
    run = Run(8, 256)
    run.add([sequence(str(i), prompt, 20) for i in range(10)])
    run.until_idle()
    last = prompt - (prompt - 1) // BLOCK * BLOCK
    assert run.twins == 8  # of 7 and of 1
    assert run.tokens == prompt + last
    alone = Run(8, 256, share=False)
    alone.add([sequence(str(i), prompt, 20) for i in range(10)])
    alone.until_idle()
    assert (alone.tokens, alone.twins) == (10 * prompt, 0)


@pytest.mark.parametrize("prompt", [1, 31, 32, 33, 64, 65, 96])
def test_samples_that_start_together_share_every_block_that_their_prompt_fills(prompt: int) -> None:
    samples = [sequence(str(i), prompt, 20) for i in range(8)]
    run = Run(8, 256)
    run.add(samples)
    run.step()
    blocks = [set(s.blocks) for s in samples]
    assert len(set.intersection(*blocks)) == prompt // BLOCK
    assert len(set.union(*blocks)) == prompt // BLOCK + 8 * (samples[0].blocks_needed - prompt // BLOCK)
    run.until_idle()
    run.check_memory()


def test_sharing_leaves_room_for_more_sequences() -> None:
    """Ten blocks in common and one each: 6 run in 16 blocks, where apart one would."""
    run = Run(8, 256, 16)
    run.add([sequence(str(i), [7] * 320 + [i], 31) for i in range(6)])
    run.step()
    run.step()
    run.step()
    assert len(run.scheduler.running) == 6
    run.until_idle()


@settings(max_examples=examples(40), deadline=None)
@given(seed=st.integers(0, 2**32 - 1), slots=st.integers(FEW, 96), count=st.integers(1, 200))
def test_the_work_lasts_until_the_longest_ends(seed: int, slots: int, count: int) -> None:
    """Log-normal lengths: as many steps as the longest one needs or the slots allow, and hardly one with few sequences."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(3.5, 0.9, count)).astype(int).clip(4, 256)
    run = Run(slots, 256)
    run.add([sequence(str(i), [i] * 8, int(new)) for i, new in enumerate(lengths)])
    loads = list[int]()
    while run.scheduler.running or run.scheduler.waiting:
        run.step()
        loads.append(len(run.scheduler.running))
    tokens, longest = int(lengths.sum()), int(lengths.max())
    assert run.steps <= max(longest, 1.1 * tokens / slots) + 2 * FEW
    # a step with fewer than FEW costs as much as with FEW: hardly more of such steps than cannot be avoided
    wasted = sum(FEW - min(load, FEW) for load in loads)
    assert wasted <= max(FEW * longest - tokens, 0) + FEW * FEW + 0.1 * tokens


def test_what_would_end_last_does_not_wait() -> None:
    """One of many ends early: the one that waits is longer than what the others have left."""
    run = Run(64, 256)
    run.add([sequence(str(i), [i], 100) for i in range(65)])
    for _ in range(30):
        run.step()
    (early, *_), (late,) = run.scheduler.running.values(), run.scheduler._waiting
    run.scheduler.release(early)
    run.everyone.remove(early)
    run.step()
    assert late.slot >= 0
    run.until_idle()
    assert run.steps <= 30 + 100 + 2


def test_as_long_as_more_is_to_come_every_slot_is_used() -> None:
    lengths = [200, *[8] * 99]
    for expected, used in ((None, FEW), (100, FEW), (101, 64)):
        scheduler = Scheduler(64, 256, BlockPool(10_000), expected=expected)
        scheduler.add([sequence(str(i), [i], new) for i, new in enumerate(lengths)])
        scheduler.schedule()
        assert len(scheduler.running) == used, expected
    busier = Scheduler(64, 256, BlockPool(10_000), few=40)
    busier.add([sequence(str(i), [i], new) for i, new in enumerate(lengths)])
    busier.schedule()
    assert len(busier.running) == 40


@settings(max_examples=examples(25), deadline=None)
@given(slots=st.integers(2, 8), budget=st.sampled_from([32, 64, 256]), prompt=st.integers(33, 400))
def test_a_prompt_is_not_overtaken_without_end(slots: int, budget: int, prompt: int) -> None:
    """Scoring: long prompts, one token each, and always more of them. Those admitted first are read first."""
    scheduler, steps_in = Scheduler(slots, budget, BlockPool(200), share=False), dict[Sequence, int]()
    waiting = deque(sequence(str(i), prompt, 1) for i in range(200))
    longest = 0
    for _ in range(150):
        while scheduler.waiting < slots and waiting:
            scheduler.add([waiting.popleft()])
        _, step = scheduler.schedule()
        for chunk in step.chunks:
            if chunk.last:
                steps_in.pop(chunk.sequence, 0)
                scheduler.release(chunk.sequence)
        for one in scheduler.running.values():
            steps_in[one] = steps_in.get(one, 0) + 1
        longest = max(longest, *steps_in.values(), 0)
    assert longest <= slots * -(-prompt // BLOCK) + 1


def test_the_first_step_of_two_prompts() -> None:
    scheduler = Scheduler(4, 64, BlockPool(9))
    a, b = sequence("a", 40, 2), sequence("b", [2] * 33, 1)
    scheduler.add([b, a])
    admitted, step = scheduler.schedule()
    assert admitted == [a, b]
    assert [(c.sequence, c.start, c.length, c.last) for c in step.chunks] == [(a, 0, 32, False), (a, 32, 8, True)]
    _, step = scheduler.schedule()
    assert step.decodes == [a]
    assert [(c.sequence, c.start, c.length) for c in step.chunks] == [(b, 0, 32), (b, 32, 1)]


def test_a_freed_slot_is_the_lowest_to_be_taken() -> None:
    scheduler = Scheduler(3, 256, BlockPool(9))
    first = [sequence(str(i), 1, 5) for i in range(3)]
    scheduler.add(first)
    scheduler.schedule()
    assert [s.slot for s in first] == [0, 1, 2]
    scheduler.release(first[2])
    scheduler.release(first[0])
    later = [sequence("x", 1, 1), sequence("y", 1, 1), sequence("z", 1, 1)]
    scheduler.add(later)
    admitted, _ = scheduler.schedule()
    assert admitted == later[:2]
    assert [s.slot for s in later] == [0, 2, -1]
    assert scheduler.waiting == 1


def test_decodes_alone_may_exceed_the_budget_but_reading_goes_on() -> None:
    scheduler = Scheduler(40, 32, BlockPool(100))
    many = [sequence(str(i), [i], 9) for i in range(39)]
    scheduler.add(many)
    while any(not s.decoding for s in many):
        scheduler.schedule()
    scheduler.add([sequence("late", 100, 1)])
    _, step = scheduler.schedule()
    assert len(step.decodes) == 39
    assert [(c.start, c.length) for c in step.chunks] == [(0, 32)]
