"""Watches a run while its replicas work: checks signals and the deadline, shows the progress, logs and shows events."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import DeadlineReached
from pipeline.output.record.events import EventLog
from pipeline.run.dispatch.replica import Replica
from pipeline.run.shared.queue import Work
from pipeline.run.show.metrics import Metrics
from pipeline.run.show.monitor import Monitor
from pipeline.run.show.progress import ProgressView
from pipeline.run.show.snapshot import RunSnapshot
from pipeline.run.show.stall import Stall
from pipeline.types import ShardReport
from pipeline.wording import counted

SHOW_SECONDS = 0.5
"""Seconds between reads of the replicas' counters; more if a read takes more than a tenth of that."""
PACE_SECONDS, PACE_SHARE = 1.0, 0.01
"""Time between `progress` events: seconds at first, then this share of the time so far: a long run has some hundreds."""
TOLD = {
    "replica_down": "{replica} is gone: {reason}; parts {shards} are retried",
    "shard_taken_over": "part {shard} is taken over from a driver that is gone",
    "shard_slow": "part {shard} has been in flight for {minutes} minutes, and a stop would lose its work; a new output with "
    "output.rows_per_shard below its {rows} rows would lose less",
    "bisected": "part {shard}: replicas died with it in flight; searching for the row that kills them, still to try: {open}",
    "row_blamed": "part {shard}: row {row} kills its replica and becomes an error row, {code}",
}
"""Event → its text, for the events that are also shown."""


@dataclass
class Watch:
    """The display, the event log and the stop conditions of a run.

    Attributes:
        view: The display.
        monitor: Adds up the figures for the display.
        events: The event log.
        check_signals: Raises if there was a signal.
        deadline: Local time at which the run stops; None: no deadline.
        metrics: Publishes the progress; None: no metrics.
        waiting_for: Returns what the run waits for, to be shown when nothing has happened for a while.
    """

    view: ProgressView
    monitor: Monitor
    events: EventLog
    check_signals: Callable[[], None]
    deadline: datetime.datetime | None
    metrics: Metrics | None = None
    waiting_for: Callable[[], str] = str
    _stall: Stall = field(default_factory=Stall)
    _next_show: float = 0.0
    _next_pace: float = 0.0
    _elsewhere: int = 0

    def event(self, name: str, **facts: Any) -> None:
        """Log an event, and show it if something went wrong."""
        ordinary = name == "shard_claimed" or (name == "shard_started" and facts["attempt"] == 1)
        (self.events.add_frequent if ordinary else self.events.add)(name, **facts)
        if self.metrics is not None:
            self.metrics.event(name, facts)
        if name in TOLD:
            self.view.note(TOLD[name].format(**facts))

    def report(self, report: ShardReport) -> None:
        """Record a committed part."""
        self.monitor.report(report)
        if self.metrics is not None:
            self.metrics.report(report)
        self.events.add_frequent(
            "shard_committed", sums=("rows", "completion_tokens"), shard=report.shard, file=report.file, rows=report.rows,
            completion_tokens=report.completion_tokens, already_there=report.already_there,
        )  # fmt: skip

    def look(self, work: Work, replicas: Sequence[Replica]) -> None:
        """Check signals and the deadline, and show the progress.

        Raises:
            Stopped: If there was a signal.
            DeadlineReached: If the deadline has passed.
        """
        self.check_signals()
        if time.monotonic() >= self._next_show:
            self.show(replicas)
        if work.elsewhere != self._elsewhere and (work.waits or not self._elsewhere):
            self.view.note(f"another driver works on {counted(work.elsewhere, 'part')} of this output")
        self._elsewhere = work.elsewhere
        if self.deadline is not None and datetime.datetime.now() >= self.deadline:
            raise DeadlineReached(f"the deadline {self.deadline:%H:%M} has passed")

    def show(self, replicas: Sequence[Replica]) -> None:
        """Show the progress."""
        begin = time.monotonic()
        snapshot = self.monitor.snapshot(replicas)
        self.view.update(snapshot)
        self._log_pace(snapshot, replicas)
        if (line := self._stall.look(self.monitor.heartbeat, self.waiting_for)) is not None:
            self.view.note(line)
        if self.metrics is not None:
            self.metrics.publish(snapshot, self.monitor.latest, [replica.name for replica in replicas])
        end = time.monotonic()
        self._next_show = end + max(SHOW_SECONDS, 10 * (end - begin))

    def end(self, replicas: Sequence[Replica], reason: str) -> None:
        """Show and log the final state, and publish the reason."""
        self._next_pace = 0.0
        self.show(replicas)
        if self.metrics is not None:
            self.metrics.stop(reason)

    def _log_pace(self, snapshot: RunSnapshot, replicas: Sequence[Replica]) -> None:
        """Log how far the run is and how full its engines are, from time to time."""
        elapsed = snapshot.elapsed_seconds
        if elapsed < self._next_pace:
            return
        self._next_pace = elapsed + max(PACE_SECONDS, PACE_SHARE * elapsed)
        latest = [self.monitor.latest[replica.name] for replica in replicas if replica.name in self.monitor.latest]
        self.events.add(
            "progress", rows=snapshot.rows_done, tokens=snapshot.tokens, running=snapshot.running,
            waiting=sum(p.waiting for p in latest), capacity=sum(p.room.max_num_seqs for p in latest), replicas=len(latest),
        )  # fmt: skip
