"""Replicas without processes: a test settles their futures, kills them, and lets them arrive."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from pipeline.run.dispatch import Dispatcher
from pipeline.run.replica import Replica, ReplicaDied
from pipeline.types import Progress, Segment, Shard, ShardReport


def shards(count: int, rows: int = 4) -> list[Shard]:
    return [Shard(i, count, (Segment(0, i * rows, (i + 1) * rows),)) for i in range(count)]


def report(shard: Shard, *, errors: dict[str, int] | None = None, already_there: bool = False) -> ShardReport:
    name = f"data/00000000-{shard.index:05d}-of-{shard.count:05d}.parquet"
    return ShardReport(shard.index, name, shard.rows, 2 * shard.rows, 10, 20, errors or {}, "0" * 64, already_there)


@dataclass(eq=False)
class FakeReplica:
    name: str
    in_hand: list[tuple[Shard, int, Future[ShardReport]]] = field(default_factory=list)
    counters: Progress = field(default_factory=Progress)

    def submit(self, shard: Shard, attempt: int) -> Future[ShardReport]:
        future: Future[ShardReport] = Future()
        self.in_hand.append((shard, attempt, future))
        return future

    def progress(self) -> Progress:
        return self.counters

    @property
    def holds(self) -> list[int]:
        return [shard.index for shard, _, _ in self.in_hand]

    def complete(self, place: int = 0) -> None:
        shard, _, future = self.in_hand.pop(place)
        future.set_result(report(shard))

    def fail(self, error: BaseException) -> None:
        self.in_hand.pop(0)[2].set_exception(error)

    def die(self, reason: str = "killed") -> None:
        for _, _, future in self.in_hand:
            future.set_exception(ReplicaDied(reason))
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
    made: int = 0

    def make(self) -> FakeReplica:
        self.made += 1
        return FakeReplica(f"replica-{self.made - 1}")

    def start(self) -> list[Replica]:
        self.alive = [self.make() for _ in range(self.size)]
        return list(self.alive)

    def arrivals(self) -> list[Replica]:
        if not self.starting:
            return []
        if self.patience > 0:
            self.patience -= 1
            return []
        arrived, self.starting = self.starting, []
        self.alive += arrived
        return list(arrived)

    def bury(self, replica: Replica) -> None:
        self.buried.append(replica.name)
        self.alive = [r for r in self.alive if r.name != replica.name]
        if not self.barren:
            self.starting.append(self.make())

    def pending(self) -> int:
        return len(self.starting)

    def facts(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        return


@dataclass
class Story:
    """A dispatch with fakes. `tell` is called at every tick and moves the replicas."""

    pool: FakePool
    tell: Callable[[FakePool], None]
    reports: list[int] = field(default_factory=list)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    ticks: int = 0

    def run(self, count: int) -> Dispatcher:
        dispatcher = Dispatcher(
            self.pool,
            lambda r: self.reports.append(r.shard),
            self._tick,
            lambda name, **facts: self.events.append((name, facts)),
        )
        dispatcher.run(shards(count))
        return dispatcher

    def named(self, name: str) -> list[dict[str, Any]]:
        return [facts for event, facts in self.events if event == name]

    def _tick(self) -> None:
        self.ticks += 1
        assert self.ticks < 5000, "the dispatch does not get on"
        self.tell(self.pool)
