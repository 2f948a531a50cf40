"""Finds the tasks in flight that are worth doing twice, because an idle replica would finish them earlier.

Doing a shard twice is harmless: its bytes are the same, and the first commit stays.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.run.dispatch.replica import Replica
from pipeline.types import Task


@dataclass(frozen=True, slots=True)
class InFlight:
    """A task that a replica works on.

    Attributes:
        task: The task.
        replica: The replica that has it.
        alone: Whether the replica must have no other task.
        since: When it was handed out, in seconds.
    """

    task: Task
    replica: Replica
    alone: bool
    since: float

    @property
    def shard(self) -> int:
        """The number of its shard."""
        return self.task.shard.index

    @property
    def rows(self) -> int:
        """Its input rows."""
        return self.task.shard.rows


@dataclass
class Pace:
    """Seconds per row of each replica, measured on the last shard that it finished, from handing it out to its report."""

    _seconds_a_row: dict[str, float] = field(default_factory=dict)

    def finished(self, task: InFlight, now: float) -> None:
        """Record that a replica has finished a shard."""
        if task.rows:
            self._seconds_a_row[task.replica.name] = (now - task.since) / task.rows

    def gone(self, replica: str) -> None:
        """Forget a replica."""
        self._seconds_a_row.pop(replica, None)

    def slowest(self, tasks: Iterable[InFlight], idle: str, now: float) -> InFlight | None:
        """Return the task with which an idle replica saves the most time; None if it would save none.

        A replica that has finished nothing yet counts as the median one. An overdue task is expected to take as much longer
        as it is overdue already: after twice the expected time, another replica is expected to be faster.
        """
        if not self._seconds_a_row:
            return None
        usual = statistics.median(self._seconds_a_row.values())
        mine = self._seconds_a_row.get(idle, usual)

        def saved(task: InFlight) -> float:
            left = abs(task.rows * self._seconds_a_row.get(task.replica.name, usual) - (now - task.since))
            return left - task.rows * mine

        best = max(tasks, key=saved, default=None)
        return best if best is not None and saved(best) > 0 else None
