"""What is left to do, as drivers see it who share it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pipeline.run.shared.claims import STALE, Claims
from pipeline.run.shared.queue import LISTED, LOOK, LOSSES, Work
from pipeline.run.shared.suspects import Suspects
from pipeline.types import ErrorCode, Task
from tests.run.simulated_store import SharedFiles, memory
from tests.run.simulation import plan_of

PLAN = plan_of(6, 4)


@dataclass
class Table:
    """Drivers around one output."""

    files: SharedFiles = field(default_factory=lambda: SharedFiles(lambda: 0.0))
    committed: set[int] = field(default_factory=set)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    elsewhere: list[tuple[str, int]] = field(default_factory=list)
    time: float = 0.0

    def __post_init__(self) -> None:
        self.files.now = lambda: self.time

    def driver(self, name: str) -> Work:
        claims = Claims(memory(self.files), name, process="x-1-1", clock=lambda: self.time)
        claims.beat()
        return Work(
            PLAN, [i for i in range(6) if i not in self.committed], claims, Suspects(memory(self.files)),
            lambda index: index in self.committed, lambda: set(self.committed),
            lambda event, **facts: self.events.append((event, facts)), lambda index: self.elsewhere.append((name, index)),
            clock=lambda: self.time,
        )  # fmt: skip

    def commit(self, work: Work, task: Task) -> None:
        self.committed.add(task.shard.index)
        work.done(task)


def begin(work: Work) -> Task | None:
    """Take a task that must be alone, as a replica does that lives."""
    task = work.next_alone()
    if task is not None and task.witness is not None:
        work.claims.store.put(task.witness, str(task.attempt).encode())
    return task


def take(work: Work) -> Task:
    task = work.next()
    assert task is not None
    return task


def test_two_drivers_take_turns_and_meet_at_the_end() -> None:
    table = Table()
    a, b = table.driver("a"), table.driver("b")
    done: dict[str, list[int]] = {"a": [], "b": []}
    for _ in range(3):
        for name, work in (("a", a), ("b", b)):
            task = take(work)
            done[name].append(task.shard.index)
            table.commit(work, task)
    assert sorted(done["a"] + done["b"]) == list(range(6))
    table.time += LOOK
    for work in (a, b):
        assert work.next() is None
        work.look()
        assert work.exhausted
    assert {index for name, index in table.elsewhere if name == "a"} == set(done["b"])
    assert not [name for name in table.files.files if "claims" in name]


def test_what_another_holds_is_waited_for() -> None:
    table = Table()
    a = table.driver("a")
    held = [take(a) for _ in range(6)]
    b = table.driver("b")
    assert b.next() is None and b.waits and not b.exhausted and b.elsewhere == 6
    for task in held[:5]:
        table.commit(a, task)
    table.time += LOOK
    b.look()
    assert b.elsewhere == 1 and b.waits
    a.claims.close()  # it stops, with one shard undone
    table.time += LOOK
    b.look()
    assert take(b).shard.index == 5


def test_what_a_dead_driver_held_is_taken_over() -> None:
    table = Table()
    take(table.driver("a"))
    b = table.driver("b")
    for _ in range(5):
        table.commit(b, take(b))
    assert b.waits
    table.time += STALE + 1
    b.claims.beat()
    b.look()
    task = take(b)
    assert (task.shard.index, task.trial) == (0, None)
    assert ("shard_taken_over", {"shard": 0}) in table.events
    table.commit(b, task)
    assert b.exhausted


def test_what_was_committed_since_is_passed_over_with_one_listing() -> None:
    table = Table()
    a, b = table.driver("a"), table.driver("b")
    for _ in range(4):
        table.commit(a, take(a))
    assert take(b).shard.index == 4
    assert [index for name, index in table.elsewhere if name == "b"] == [0, 1, 2, 3]


def test_suspects_come_apart_and_a_search_goes_on_after_a_restart() -> None:
    table = Table()
    a = table.driver("a")
    first, second = take(a), take(a)
    a.died(first, ErrorCode.WORKER_CRASH)
    a.done(second)
    assert a.wants_alone and a.next() is not None
    again = begin(a)
    assert again is not None and (again.shard.index, again.attempt, again.trial) == (0, 2, None)
    a.died(again, ErrorCode.WORKER_CRASH)
    trial = begin(a)
    assert trial is not None and trial.trial == (0, 0), "no rows at all come first"
    a.done(trial)
    trial = begin(a)
    assert trial is not None and trial.trial == (0, 2)
    table.committed.add(1)
    a.claims.close()
    b = table.driver("b")
    while b.next() is not None:
        pass
    trial = begin(b)
    assert trial is not None and trial.trial == (0, 2)


def test_a_blamed_row_is_excluded_from_what_is_written() -> None:
    table = Table()
    a = table.driver("a")
    task: Task | None = take(a)
    for _ in range(100):
        assert task is not None
        start, stop = task.trial or (0, 4)
        if start <= 3 < stop and 3 not in task.excluded:
            a.died(task, ErrorCode.TIMEOUT)
        else:
            a.done(task)
            if task.trial is None:
                break
        task = begin(a) or a.next()
    assert task is not None and task.excluded == {3: ErrorCode.TIMEOUT}
    assert ("row_blamed", {"shard": 0, "row": 3, "code": "TIMEOUT"}) in table.events


def test_the_end_of_a_node_leaves_no_trace() -> None:
    table = Table()
    a = table.driver("a")
    task = take(a)
    a.give_back(task)
    again = take(a)
    assert (again.shard.index, again.attempt) == (0, 2)
    assert not [name for name in table.files.files if "suspects" in name]


def test_what_is_lost_with_one_node_after_another_is_not_taken_for_chance_for_ever() -> None:
    table = Table()
    a = table.driver("a")
    for _ in range(LOSSES):
        a.give_back(take(a))
    assert a.wants_alone


def test_a_replica_that_was_dead_before_it_began_is_no_evidence() -> None:
    table = Table()
    a = table.driver("a")
    a.died(take(a), ErrorCode.WORKER_CRASH)
    for _ in range(3):
        dead = a.next_alone()
        assert dead is not None and dead.trial is None
        a.died(dead, ErrorCode.WORKER_CRASH)
    alive = begin(a)
    assert alive is not None
    a.died(alive, ErrorCode.WORKER_CRASH)
    searched = begin(a)
    assert searched is not None and searched.trial == (0, 0)


def test_where_there_are_many_parts_few_that_were_let_go_are_asked_for_one_by_one() -> None:
    plan, files, now = plan_of(4 * LISTED, 1), SharedFiles(lambda: 0.0), [0.0]
    committed, asked, there = set[int](), list[int](), list[int]()

    def is_committed(index: int) -> bool:
        asked.append(index)
        return index in committed

    def listing() -> set[int]:
        raise AssertionError("all parts are listed")

    def driver(name: str, missing: range) -> Work:
        claims = Claims(memory(files), name, process="x-1-1", clock=lambda: now[0])
        claims.beat()
        return Work(
            plan, missing, claims, Suspects(memory(files)), is_committed, listing,
            lambda *_, **__: None, there.append, clock=lambda: now[0],
        )  # fmt: skip

    a = driver("a", range(5))
    tasks = [take(a) for _ in range(5)]
    b = driver("b", range(5))
    assert b.waits
    asked.clear()
    for task in tasks[:2]:
        committed.add(task.shard.index)
        a.done(task)
    a.claims.release(2)  # without a part
    now[0] += LOOK
    b.look()
    assert (asked, there) == ([0, 1, 2], [0, 1])
    assert take(b).shard.index == 2 and b.elsewhere == 2
    for task in tasks[3:]:
        committed.add(task.shard.index)
    a.claims.close()
    now[0] += LOOK
    b.look()
    assert sorted(there) == [0, 1, 3, 4]


def test_what_takes_long_is_looked_at_rarely() -> None:
    table = Table()
    a = table.driver("a")
    tasks = [take(a) for _ in range(6)]
    b = table.driver("b")
    listing = b.committed

    def slow() -> set[int]:
        table.time += 7.0
        return listing()

    b.committed = slow
    looks = []
    for task in tasks:
        table.commit(a, task)
        before = table.time
        table.time += 10.0
        b.look()
        looks.append(table.time - before > 10.0)
    assert looks == [True, *[False] * 5], "a look of seven seconds, and seventy without one"
