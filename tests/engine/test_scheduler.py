"""The scheduler's promises, over random arrivals, without a model."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import request

from pipeline.engine.scheduler import Scheduler
from pipeline.engine.sequence import CHUNK, Sequence


def sequence(name: str, prompt: int, new: int) -> Sequence:
    return Sequence(request(name, [1] * prompt, max_tokens=new), new)


JOBS = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 12)), max_size=12)
CALLS = st.lists(st.tuples(JOBS, st.integers(0, 6)), min_size=1, max_size=4)


class Run:
    """Drives a scheduler as the engine does, and checks every step."""

    def __init__(self, slots: int, budget: int) -> None:
        self.scheduler, self.slots, self.budget = Scheduler(slots, budget), slots, budget
        self.read: dict[Sequence, int] = {}
        self.order: list[Sequence] = []
        self.steps = 0

    def step(self) -> None:
        scheduler = self.scheduler
        free, waiting = self.slots - len(scheduler.running), scheduler.waiting
        admitted, step = scheduler.schedule()
        assert len(admitted) == min(free, waiting)  # a slot is filled the moment it is free
        self.order += admitted
        running = list(scheduler.running.values())
        assert len(running) <= self.slots
        assert len({s.slot for s in running}) == len(running)
        assert all(0 <= slot < self.slots and s.slot == slot for slot, s in scheduler.running.items())
        self.check_tokens(step.decodes, [(c.sequence, c.start, c.length, c.last) for c in step.chunks])
        first_tokens = [c.sequence for c in step.chunks if c.last]
        for one in [*step.decodes, *first_tokens]:
            one.generated.append(1)
            if len(one.generated) == one.max_new:
                scheduler.release(one)
                assert one.slot == -1
        self.steps += 1

    def check_tokens(self, decodes: list[Sequence], chunks: list[tuple[Sequence, int, int, bool]]) -> None:
        """Whoever has read the prompt decodes; the others read on, on the grid, within the budget."""
        running = self.scheduler.running.values()
        assert {s for s in running if self.read.get(s, 0) == s.prompt_len} == set(decodes)
        assert len(set(decodes)) == len(decodes)
        for one, start, length, last in chunks:
            assert start == self.read.get(one, 0) and length >= 1
            assert start // CHUNK == (start + length - 1) // CHUNK  # no chunk crosses the grid
            assert (start + length) % CHUNK == 0 or start + length == one.prompt_len  # and none stops short of it
            self.read[one] = start + length
            assert last == (self.read[one] == one.prompt_len)
            assert one.prefilled == self.read[one] or (one, self.read[one]) in [(s, t) for s, t, *_ in chunks]
        reading = [s for s in running if s not in decodes]
        assert bool(chunks) == bool(reading)  # a step with prompts to read always takes a chunk
        total = len(decodes) + sum(length for _, _, length, _ in chunks)
        assert total <= self.budget or len(chunks) <= 1

    def until_idle(self) -> None:
        while self.scheduler.running or self.scheduler.waiting:
            self.step()


@settings(deadline=None)
@given(calls=CALLS, slots=st.integers(1, 9), budget=st.sampled_from([32, 33, 64, 256]))
def test_every_prompt_token_is_read_once_and_in_order(
    calls: list[tuple[list[tuple[int, int]], int]], slots: int, budget: int
) -> None:
    run, everyone, longest = Run(slots, budget), list[Sequence](), list[Sequence]()
    for number, (jobs, steps) in enumerate(calls):
        new = [sequence(f"{number}-{i}", *job) for i, job in enumerate(jobs)]
        run.scheduler.add(new)
        everyone += new
        longest += sorted(new, key=lambda s: -(s.prompt_len + s.max_new))
        for _ in range(steps):
            run.step()
    run.until_idle()
    assert run.read == {s: s.prompt_len for s in everyone}
    assert all(len(s.generated) == s.max_new for s in everyone)
    assert run.order == longest  # calls are served first come, first served; within one the longest start first
    # nothing starves: every step does something, and all of it is bounded
    chunks = sum(-(-s.prompt_len // CHUNK) for s in everyone)
    assert run.steps <= sum(steps for _, steps in calls) + chunks + sum(s.max_new for s in everyone)


@settings(max_examples=25, deadline=None)
@given(slots=st.integers(2, 8), budget=st.sampled_from([32, 64, 256]), prompt=st.integers(33, 400))
def test_a_prompt_is_not_overtaken_without_end(slots: int, budget: int, prompt: int) -> None:
    """Scoring: long prompts, one token each, and always more of them. Those admitted first are read first."""
    scheduler, steps_in = Scheduler(slots, budget), dict[Sequence, int]()
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
    assert longest <= slots * -(-prompt // CHUNK) + 1


def test_the_first_step_of_two_prompts() -> None:
    scheduler = Scheduler(4, 64)
    a, b = sequence("a", 40, 2), sequence("b", 33, 1)
    scheduler.add([b, a])
    admitted, step = scheduler.schedule()
    assert admitted == [a, b]
    assert [(c.sequence, c.start, c.length, c.last) for c in step.chunks] == [(a, 0, 32, False), (a, 32, 8, True)]
    _, step = scheduler.schedule()
    assert step.decodes == [a]
    assert [(c.sequence, c.start, c.length) for c in step.chunks] == [(b, 0, 32), (b, 32, 1)]


def test_a_freed_slot_is_the_lowest_to_be_taken() -> None:
    scheduler = Scheduler(3, 256)
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
    scheduler = Scheduler(40, 32)
    many = [sequence(str(i), 1, 9) for i in range(39)]
    scheduler.add(many)
    while any(not s.decoding for s in many):
        scheduler.schedule()
    scheduler.add([sequence("late", 100, 1)])
    _, step = scheduler.schedule()
    assert len(step.decodes) == 39
    assert [(c.start, c.length) for c in step.chunks] == [(0, 32)]
