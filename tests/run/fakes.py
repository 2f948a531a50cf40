"""Replicas without processes: a test settles their futures, kills them, and lets them arrive."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.run.dispatch.dispatch import Dispatcher
from pipeline.run.dispatch.replica import Replica, ReplicaDied
from pipeline.run.shared.claims import Claims
from pipeline.run.shared.queue import Work
from pipeline.run.shared.suspects import Suspects
from pipeline.types import Progress, Shard, ShardReport, Task
from tests.run.simulated_store import SharedFiles, View, memory
from tests.run.simulation import plan_of


def report(shard: Shard, *, errors: dict[str, int] | None = None, already_there: bool = False) -> ShardReport:
    name = f"data/00000000-{shard.index:05d}-of-{shard.count:05d}.parquet"
    return ShardReport(shard.index, name, shard.rows, 2 * shard.rows, 10, 20, errors or {}, "0" * 64, already_there)


@dataclass(eq=False)
class FakeReplica:
    name: str
    in_hand: list[tuple[Task, Future[ShardReport | None]]] = field(default_factory=list)
    counters: Progress = field(default_factory=Progress)
    store: View | None = None
    node: str = "here"

    def submit(self, task: Task) -> Future[ShardReport | None]:
        future: Future[ShardReport | None] = Future()
        self.in_hand.append((task, future))
        if task.witness is not None and self.store is not None:
            self.store.put(task.witness, str(task.attempt).encode())
        return future

    def progress(self) -> Progress:
        return self.counters

    @property
    def holds(self) -> list[int]:
        return [task.shard.index for task, _ in self.in_hand]

    def complete(self, place: int = 0) -> None:
        task, future = self.in_hand.pop(place)
        self.counters = replace(self.counters, beats=self.counters.beats + 1)
        future.set_result(None if task.trial else report(task.shard))

    def fail(self, error: BaseException) -> None:
        self.in_hand.pop(0)[1].set_exception(error)

    def die(self, reason: str = "killed", kind: type[ReplicaDied] = ReplicaDied) -> None:
        for _, future in self.in_hand:
            future.set_exception(kind(reason))
        self.in_hand.clear()


@dataclass
class FakePool:
    """As many replicas at the start as asked; a buried one has a successor, which arrives unless `barren`."""

    size: int
    barren: bool = False
    patience: int = 0
    alive: list[FakeReplica] = field(default_factory=list)
    starting: list[FakeReplica] = field(default_factory=list)
    buried: list[str] = field(default_factory=list)
    left: set[str] = field(default_factory=set)
    made: int = 0
    store: View | None = None

    def make(self) -> FakeReplica:
        self.made += 1
        return FakeReplica(f"replica-{self.made - 1}", store=self.store)

    def start(self) -> list[Replica]:
        self.alive = [self.make() for _ in range(self.size)]
        return list(self.alive)

    def leaving(self) -> set[str]:
        return self.left

    def arrivals(self, unfinished: int) -> list[Replica]:
        if not self.starting:
            return []
        if self.patience > 0:
            self.patience -= 1
            return []
        arrived, self.starting = self.starting, []
        self.alive += arrived
        return list(arrived)

    def replace(self, replica: Replica) -> None:
        self.buried.append(replica.name)
        self.alive = [r for r in self.alive if r.name != replica.name]
        if not self.barren:
            self.starting.append(self.make())

    def pending(self) -> int:
        return len(self.starting)

    def doing(self) -> str:
        return ""

    def facts(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        return


@dataclass
class Story:
    """A dispatch with fakes over a store in memory. `tell` is called at every tick and moves the replicas."""

    pool: FakePool
    tell: Callable[[FakePool], None]
    reports: list[int] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    ticks: int = 0
    time: float = 0.0
    files: SharedFiles = field(default_factory=lambda: SharedFiles(lambda: 0.0))
    hang_timeout: float = float("inf")

    def work(self, count: int, rows: int = 4) -> Work:
        plan = plan_of(max(count, 1), rows)
        store = self.pool.store = memory(self.files)
        there = [] if count else [0]
        return Work(
            plan, [i for i in range(plan.shard_count) if i not in there], Claims(store, "me", clock=lambda: self.time),
            Suspects(store), lambda index: False, set, self._event, lambda index: None, clock=lambda: self.time,
        )  # fmt: skip

    def run(self, count: int, rows: int = 4) -> Dispatcher:
        dispatcher = Dispatcher(
            self.pool, self.work(count, rows), lambda r: self.reports.append(r.shard), self._tick, self._event,
            hang_timeout=self.hang_timeout, clock=lambda: self.time,
        )  # fmt: skip
        dispatcher.run()
        return dispatcher

    def named(self, name: str) -> list[dict[str, Any]]:
        return [facts for event, facts in self.events if event == name]

    def _event(self, name: str, **facts: Any) -> None:
        self.events.append((name, facts))

    def _tick(self) -> None:
        self.ticks += 1
        assert self.ticks < 5000, "the dispatch does not get on"
        self.tell(self.pool)
