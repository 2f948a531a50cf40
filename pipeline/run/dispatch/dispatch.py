"""Gives tasks to replicas, two in flight each, and takes their reports until none is left.

A replica that dies or hangs is replaced, and its tasks are retried. The tasks of a slow or leaving replica are also given to
another one. It uses no Ray: replicas come from a `ReplicaPool`.
"""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from pipeline.errors import ClusterLost, PromptmillError, WorkerFailed
from pipeline.planning.pace import AT_RISK
from pipeline.run.dispatch.loads import Loads
from pipeline.run.dispatch.replica import Replica, ReplicaDied, ReplicaFailed, ReplicaHung, ReplicaLost, ReplicaPool
from pipeline.run.dispatch.stragglers import InFlight, Pace
from pipeline.run.shared.queue import Work
from pipeline.types import ErrorCode, ShardReport, Task
from pipeline.wording import counted, duration

IN_FLIGHT = 2
"""Shards in flight per replica, so that its batch stays full when one of them runs out of rows."""
WATCH = 1.0
"""Seconds between checks of the replicas' heartbeats; more if a check takes more than a tenth of that."""
TICK = 0.2
"""Seconds between checks of signals, the deadline and the display."""
FAILURES = 3
"""How many replicas may end in an exception with the same shard in flight before that is the job's own fault."""


@dataclass
class Dispatcher:
    """One run's dispatch.

    Attributes:
        pool: Where replicas come from.
        work: The shards to do.
        on_report: Called with every report of a part.
        on_tick: Called about five times a second; may raise to stop the run.
        on_event: Called with an event's name and details.
        hang_timeout: Seconds without progress after which a replica that has work counts as hung.
        clock: A monotonic clock, seconds.
        replicas: Those that are ready, leaving ones included.
    """

    pool: ReplicaPool
    work: Work
    on_report: Callable[[ShardReport], None]
    on_tick: Callable[[], None]
    on_event: Callable[..., None]
    hang_timeout: float = float("inf")
    clock: Callable[[], float] = time.monotonic
    replicas: list[Replica] = field(default_factory=list)
    _loads: Loads = field(default_factory=lambda: Loads(IN_FLIGHT))
    _in_flight: dict[Future[ShardReport | None], InFlight] = field(default_factory=dict)
    _settled: queue.SimpleQueue[Future[ShardReport | None]] = field(default_factory=queue.SimpleQueue)
    _copied: set[int] = field(default_factory=set)  # shards that two replicas work on
    _late: set[Future[ShardReport | None]] = field(default_factory=set)  # the slower copies of committed shards
    _leaving: dict[str, Replica] = field(default_factory=dict)
    _failures: Counter[int] = field(default_factory=Counter)  # shard → replicas that ended in an exception with it
    _pace: Pace = field(default_factory=Pace)
    _beats: dict[str, tuple[int, float]] = field(default_factory=dict)  # replica → its last beat, and when that came
    _slow: bool = False  # whether `shard_slow` has been logged
    _next_watch: float = float("-inf")
    _next_copy: float = float("-inf")

    def run(self) -> None:
        """Work until nothing is left.

        Raises:
            PromptmillError: What a worker reported, or what `on_tick` raised.
        """
        while self.work.waits:  # load no model while only other drivers have work
            time.sleep(TICK)
            self.work.look()
            self.on_tick()
        if self.work.exhausted:
            return
        for replica in self.pool.start():
            self.add(replica)
        while self.step():
            pass

    def step(self) -> bool:
        """Hand out tasks, process what has finished, and return whether anything is left."""
        self._fill()
        if len(self._in_flight) == len(self._late) and self.work.exhausted:
            return False
        for future in self._finished():
            self._settle(future)
        self._watch()
        unfinished = self.work.waiting + len(self._in_flight) - len(self._late)
        for replica in self.pool.arrivals(unfinished):
            self.add(replica)
        self._drain(self.pool.leaving())
        if not self.replicas and not self.pool.pending() and unfinished:
            raise ClusterLost("no replica is left and none is starting")
        self.work.look()
        self.on_tick()
        return True

    @property
    def rows_in_flight(self) -> int:
        """Input rows of the shards that replicas work on."""
        wanted = {o.shard: o.task.shard.rows for future, o in self._in_flight.items() if future not in self._late}
        return sum(wanted.values())

    def waiting_for(self) -> str:
        """Return what this run waits for, for a line to the user."""
        now = self.clock()
        held = sorted((o for f, o in self._in_flight.items() if f not in self._late), key=lambda o: o.since)
        if held:
            oldest = held[0]
            others = f", and {counted(len(held) - 1, 'other part')}" if len(held) > 1 else ""
            return (
                f"part {oldest.shard} on {oldest.replica.name}, {oldest.replica.node}, in flight for "
                f"{duration(now - oldest.since)}{others}"
            )
        if self.pool.pending():
            return f"{counted(self.pool.pending(), 'replica')} to start" + (
                f": {d}" if (d := self.pool.doing()) else ""
            )
        if self.work.elsewhere:
            return f"another driver, which works on {counted(self.work.elsewhere, 'part')}"
        return "a free replica"

    def add(self, replica: Replica) -> None:
        """Add a replica that is ready."""
        self.replicas.append(replica)
        self._loads.add(replica)
        self.on_event("replica_up", replica=replica.name, node=replica.node)

    def _fill(self) -> None:
        """Give each replica its tasks: a first task to all before a second to any, so that the last tasks spread out."""
        loads, work = self._loads, self.work
        self._copy_from_leaving()
        # A task that must be alone waits until a replica is empty; for that, one replica at a time gets no new work.
        emptying = loads.least_loaded() if work.wants_alone and not loads.alone else None
        for depth in range(IN_FLIGHT):
            while (replica := loads.first(depth, but=emptying)) is not None and (task := work.next()) is not None:
                self._hand(task, replica, alone=False)
        while work.wants_alone and (replica := loads.first(0)) is not None and (task := work.next_alone()) is not None:
            self._hand(task, replica, alone=True)
        self._copy_from_slow()

    def _copy_from_leaving(self) -> None:
        """Give the tasks of a leaving replica to another one, before any new task."""
        for held in self._copyable() if self._leaving else ():
            if held.replica.name in self._leaving:
                replica = next((r for depth in range(IN_FLIGHT) if (r := self._loads.first(depth)) is not None), None)
                if replica is None:
                    return
                self._copy(held, replica)

    def _copy_from_slow(self) -> None:
        """Let an idle replica repeat a task that it would finish first. This compares all tasks in flight, so once a second."""
        now = self.clock()
        if now < self._next_copy or self.work.waiting or self._loads.first(0) is None:
            return
        self._next_copy = now + WATCH
        choices = self._copyable()
        while (replica := self._loads.first(0)) is not None:
            slowest = self._pace.slowest(choices, replica.name, now)
            if slowest is None:
                return
            choices.remove(slowest)
            self._copy(slowest, replica)

    def _copyable(self) -> list[InFlight]:
        """Return the tasks that are in flight once, still needed, and no trials."""
        return [
            held
            for future, held in self._in_flight.items()
            if not held.alone and held.shard not in self._copied and future not in self._late
        ]

    def _copy(self, held: InFlight, replica: Replica) -> None:
        task = self.work.copy(held.task)
        self._copied.add(held.shard)
        self.on_event("shard_copied", shard=held.shard, replica=replica.name, of=held.replica.name)
        self._hand(task, replica, alone=False)

    def _hand(self, task: Task, replica: Replica, *, alone: bool) -> None:
        trial = {} if task.trial is None else {"trial": list(task.trial)}
        self.on_event("shard_started", shard=task.shard.index, attempt=task.attempt, replica=replica.name, **trial)
        future = replica.submit(task)
        self._in_flight[future] = InFlight(task, replica, alone, self.clock())
        self._loads.take(replica, alone=alone)
        future.add_done_callback(self._settled.put)

    def _finished(self) -> list[Future[ShardReport | None]]:
        """Wait a tick, or less if a future is done. Reports come before deaths, which would discard them."""
        done: list[Future[ShardReport | None]] = []
        try:
            done.append(self._settled.get(timeout=TICK))
            while True:
                done.append(self._settled.get_nowait())
        except queue.Empty:
            return sorted(done, key=lambda future: future.exception() is not None)

    def _settle(self, future: Future[ShardReport | None]) -> None:
        """Process one finished future: a report, a death, or an error of the job."""
        held = self._in_flight.get(future)
        if held is None:
            return  # its replica was replaced meanwhile
        late = future in self._late  # another replica has committed the shard
        try:
            report = future.result()
        except ReplicaDied as death:
            self._replace(held.replica, death)
            return
        except PromptmillError:
            if not late:
                raise
            report = None
        del self._in_flight[future]
        self._late.discard(future)
        if held.replica.name not in self._leaving:
            self._loads.finish(held.replica)
        if report is not None:
            self._pace.finished(held, self.clock())
        if late:
            return
        self.work.done(held.task)
        if held.shard in self._copied:
            self._copied.discard(held.shard)
            self._late.update(other for other, o in self._in_flight.items() if o.shard == held.shard)
        if report is not None:
            self.on_report(report)

    def _drain(self, names: set[str]) -> None:
        """Give no more tasks to replicas whose node is about to leave, and end them when none of their tasks is needed."""
        for replica in [r for r in self.replicas if r.name in names and r.name not in self._leaving]:
            self.on_event("replica_leaving", replica=replica.name)
            self._leaving[replica.name] = replica
            self._loads.remove(replica)
        for replica in list(self._leaving.values()):
            if not any(held.replica is replica for f, held in self._in_flight.items() if f not in self._late):
                self._replace(replica, ReplicaLost("its node is leaving"))

    def _watch(self) -> None:
        """Replace replicas that have work and have made no progress for too long."""
        now = self.clock()
        if now < self._next_watch:
            return
        busy = {held.replica.name: held.replica for held in self._in_flight.values()}
        for name in set(self._beats).difference(busy):
            del self._beats[name]
        for name, replica in busy.items():
            beats = replica.progress().beats
            before, since = self._beats.get(name, (-1, now))
            if beats != before:
                self._beats[name] = beats, now
            elif now - since > self.hang_timeout:
                del self._beats[name]
                self._replace(replica, ReplicaHung(f"no progress for {self.hang_timeout:g} s"))
        for future, held in self._in_flight.items():
            if not self._slow and future not in self._late and now - held.since > AT_RISK:
                self._slow = True
                self.on_event("shard_slow", shard=held.shard, rows=held.task.shard.rows, minutes=round(AT_RISK / 60))
        # Every busy replica is asked; if that takes long, it is done less often.
        self._next_watch = now + max(WATCH, 10 * (self.clock() - now))

    def _replace(self, dead: Replica, death: ReplicaDied) -> None:
        """Replace a replica, and retry its tasks in flight.

        Raises:
            WorkerFailed: If replicas keep ending in an exception with one of the tasks, which is no replica's fault then.
        """
        if dead.name in self._leaving and not isinstance(death, ReplicaHung | ReplicaLost):
            death = ReplicaLost(str(death))  # a leaving node ends its processes before it is known to be gone
        lost = {future: held for future, held in self._in_flight.items() if held.replica is dead}
        for future in lost:
            del self._in_flight[future]
        # A task that another replica also has needs no retry or suspicion: if it is deadly, that replica will die too.
        elsewhere = {held.shard for future, held in self._in_flight.items() if future not in self._late}
        tasks = [h.task for f, h in lost.items() if f not in self._late and h.shard not in elsewhere]
        self._copied.difference_update(held.shard for held in lost.values())
        self._late.difference_update(lost)
        shards = sorted(task.shard.index for task in tasks)
        self.on_event("replica_down", replica=dead.name, reason=str(death), shards=shards, counts=death.counts)
        self.replicas.remove(dead)
        if self._leaving.pop(dead.name, None) is None:
            self._loads.remove(dead)
        self._pace.gone(dead.name)
        if isinstance(death, ReplicaFailed):
            self._failures.update(shards)
            if any(self._failures[shard] >= FAILURES for shard in shards):
                raise WorkerFailed(f"{death}; {FAILURES} replicas have ended so") from death
        code = ErrorCode.TIMEOUT if isinstance(death, ReplicaHung) else ErrorCode.WORKER_CRASH
        for task in sorted(tasks, key=lambda task: -task.shard.index):
            if death.counts:
                self.work.died(task, code)
            else:
                self.work.give_back(task)
        self.pool.replace(dead)
