"""What a run does while its replicas work: looks at signals and the deadline, shows how it gets on, keeps and tells events."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import DeadlineReached
from pipeline.output.events import EventLog
from pipeline.run.dispatch.replica import Replica
from pipeline.run.shared.queue import Work
from pipeline.run.show.metrics import Metrics
from pipeline.run.show.monitor import Monitor
from pipeline.run.show.progress import ProgressView
from pipeline.types import ShardReport
from pipeline.wording import counted

SHOW_SECONDS = 0.5
"""Seconds between two looks at the replicas' counters; more where a look takes more than a tenth of that."""
TOLD = {
    "replica_down": "{replica} is gone: {reason}; parts {shards} are done again",
    "shard_taken_over": "part {shard} is taken over from a driver that is gone",
    "shard_slow": "part {shard} is in hand for {minutes} minutes, and a stop loses its work; a new output with a smaller "
    "output.rows_per_shard than its {rows} rows would lose less",
    "bisected": "part {shard}: replicas died with it; looking for the row, still to try: {open}",
    "row_blamed": "part {shard}: row {row} is the one; it becomes an error, {code}",
}
"""Events that are shown, too, and in what words."""


@dataclass
class Watch:
    """The eyes and the mouth of a run.

    Attributes:
        view: Where it is shown.
        monitor: Adds up what is shown.
        events: Keeps what happened.
        check_signals: Raises if there was a signal.
        deadline: Local time at which the run stops; null: none.
        metrics: Publishes how it gets on; null: nobody.
    """

    view: ProgressView
    monitor: Monitor
    events: EventLog
    check_signals: Callable[[], None]
    deadline: datetime.datetime | None
    metrics: Metrics | None = None
    _next_show: float = 0.0
    _elsewhere: int = 0

    def event(self, name: str, **facts: Any) -> None:
        """Keep an event, and tell it if something went wrong."""
        ordinary = name == "shard_claimed" or (name == "shard_started" and facts["attempt"] == 1)
        (self.events.add_frequent if ordinary else self.events.add)(name, **facts)
        if self.metrics is not None:
            self.metrics.event(name, facts)
        if name in TOLD:
            self.view.note(TOLD[name].format(**facts))

    def report(self, report: ShardReport) -> None:
        """Take a committed part."""
        self.monitor.report(report)
        if self.metrics is not None:
            self.metrics.report(report)
        self.events.add_frequent(
            "shard_committed", sums=("rows", "completion_tokens"), shard=report.shard, file=report.file, rows=report.rows,
            completion_tokens=report.completion_tokens, already_there=report.already_there,
        )  # fmt: skip

    def look(self, work: Work, replicas: Sequence[Replica]) -> None:
        """Look at everything.

        Raises:
            Stopped: If there was a signal.
            DeadlineReached: If it is time.
        """
        self.check_signals()
        if time.monotonic() >= self._next_show:
            self.show(replicas)
        if work.elsewhere != self._elsewhere and (work.waits or not self._elsewhere):
            self.view.note(f"another driver works on {counted(work.elsewhere, 'part')} of this output")
        self._elsewhere = work.elsewhere
        if self.deadline is not None and datetime.datetime.now() >= self.deadline:
            raise DeadlineReached(f"the deadline {self.deadline:%H:%M} has come")

    def show(self, replicas: Sequence[Replica]) -> None:
        """Show how it gets on."""
        begin = time.monotonic()
        snapshot = self.monitor.snapshot(replicas)
        self.view.update(snapshot)
        if self.metrics is not None:
            self.metrics.publish(snapshot, self.monitor.latest, [replica.name for replica in replicas])
        end = time.monotonic()
        self._next_show = end + max(SHOW_SECONDS, 10 * (end - begin))

    def end(self, replicas: Sequence[Replica], reason: str) -> None:
        """Show where it ended, and publish why."""
        self.show(replicas)
        if self.metrics is not None:
            self.metrics.stop(reason)
