"""Hands shards to replicas, two in flight each, and takes their reports until none is left.

A replica that dies is replaced and its shards are handed out again. It does not know Ray, files, or how a run is shown.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from pipeline.errors import ClusterLost, WorkerFailed
from pipeline.run.replica import Replica, ReplicaDied, ReplicaPool
from pipeline.types import Shard, ShardReport

IN_FLIGHT = 2
"""Shards a replica has in hand, so that its batch stays full when one of them runs out of rows."""
MAX_DEATHS = 3
"""Replicas that may die with one shard in hand before the job gives up on it."""
TICK = 0.2
"""Seconds between two looks at signals, the deadline and the display."""


@dataclass
class _Assignment:
    shard: Shard
    replica: Replica


@dataclass
class Dispatcher:
    """One run's dispatch.

    Attributes:
        pool: Where replicas come from.
        on_report: Called with every report.
        on_tick: Called about five times a second; may raise to stop the run.
        on_event: Called with a fact's name and details.
    """

    pool: ReplicaPool
    on_report: Callable[[ShardReport], None]
    on_tick: Callable[[], None]
    on_event: Callable[..., None]
    replicas: list[Replica] = field(default_factory=list)
    _in_flight: dict[Future[ShardReport], _Assignment] = field(default_factory=dict)
    _again: deque[Shard] = field(default_factory=deque)
    _deaths: dict[int, int] = field(default_factory=dict)
    _attempts: dict[int, int] = field(default_factory=dict)

    def run(self, shards: Iterable[Shard]) -> None:
        """Work through `shards`, which may be many: they are drawn one at a time.

        Raises:
            PromptmillError: What a worker reported, or what `on_tick` raised.
        """
        remaining = iter(shards)
        for replica in self.pool.start():
            self._welcome(replica)
        while True:
            self._fill(remaining)
            if not self._in_flight and not self._again:
                return
            for future in self._finished():
                self._settle(future)
            for replica in self.pool.arrivals():
                self._welcome(replica)
            if not self.replicas and not self.pool.pending():
                raise ClusterLost("no replica is left and none is starting")
            self.on_tick()

    def _welcome(self, replica: Replica) -> None:
        self.replicas.append(replica)
        self.on_event("replica_up", replica=replica.name)

    def _fill(self, remaining: Iterator[Shard]) -> None:
        """Give each replica its shards: everyone's first before anyone's second, so that the last ones spread out."""
        load = {replica.name: 0 for replica in self.replicas}
        for assignment in self._in_flight.values():
            load[assignment.replica.name] += 1
        for depth in range(IN_FLIGHT):
            for replica in self.replicas:
                if load[replica.name] > depth:
                    continue
                shard = self._again.popleft() if self._again else next(remaining, None)
                if shard is None:
                    return
                load[replica.name] += 1
                attempt = self._attempts[shard.index] = self._attempts.get(shard.index, 0) + 1
                self.on_event("shard_started", shard=shard.index, attempt=attempt, replica=replica.name)
                self._in_flight[replica.submit(shard, attempt)] = _Assignment(shard, replica)

    def _finished(self) -> list[Future[ShardReport]]:
        """Wait a tick, or less when a future is settled. Reports come before deaths, which would take them along."""
        if not self._in_flight:
            time.sleep(TICK)  # `concurrent.futures.wait` does not wait for nothing
            return []
        done, _ = concurrent.futures.wait(self._in_flight, timeout=TICK, return_when=concurrent.futures.FIRST_COMPLETED)
        return sorted(done, key=lambda future: future.exception() is not None)

    def _settle(self, future: Future[ShardReport]) -> None:
        """Take one finished future: a report, a death, or an error of the job."""
        assignment = self._in_flight.pop(future, None)
        if assignment is None:
            return  # its replica was buried meanwhile
        try:
            report = future.result()
        except ReplicaDied as death:
            self._bury(assignment, str(death))
        else:
            self.on_report(report)

    def _bury(self, assignment: _Assignment, reason: str) -> None:
        """Replace a dead replica and put its shards back in front of the queue."""
        dead = assignment.replica
        lost = [assignment.shard]
        for future, other in list(self._in_flight.items()):
            if other.replica is dead:
                del self._in_flight[future]
                lost.append(other.shard)
        self.on_event("replica_down", replica=dead.name, reason=reason, shards=sorted(s.index for s in lost))
        for shard in lost:
            deaths = self._deaths[shard.index] = self._deaths.get(shard.index, 0) + 1
            if deaths >= MAX_DEATHS:
                raise WorkerFailed(
                    f"shard {shard.index}: {deaths} replicas died with it in hand (last: {reason}); parts committed so far stay"
                )
        self._again.extendleft(sorted(lost, key=lambda s: -s.index))
        self.replicas.remove(dead)
        self.pool.bury(dead)
