"""Which tasks in hand are worth doing twice: those that an idle replica would end before the one that has them.

Doing a shard twice is harmless, as its bytes are the same and the first commit stays. It does not hand anything out.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.run.dispatch.replica import Replica
from pipeline.types import Task


@dataclass(frozen=True, slots=True)
class InHand:
    """A task that a replica works on.

    Attributes:
        task: The task.
        replica: Who has it.
        alone: Whether the replica may have nothing else.
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
    """How long each replica takes for a row, from the last shard that it finished: seconds from hand to hand."""

    _seconds_a_row: dict[str, float] = field(default_factory=dict)

    def finished(self, task: InHand, now: float) -> None:
        """A replica is through with a shard."""
        if task.rows:
            self._seconds_a_row[task.replica.name] = (now - task.since) / task.rows

    def gone(self, replica: str) -> None:
        """A replica is no more."""
        self._seconds_a_row.pop(replica, None)

    def slowest(self, tasks: Iterable[InHand], idle: str, now: float) -> InHand | None:
        """Return the task with which an idle replica saves the most time; null if it would save none.

        A replica that has finished nothing yet counts as the median one. A task that is overdue is expected to take as
        much longer as it is over already: after twice the time that was expected, another replica is taken to be quicker.
        """
        if not self._seconds_a_row:
            return None
        usual = statistics.median(self._seconds_a_row.values())
        mine = self._seconds_a_row.get(idle, usual)

        def saved(task: InHand) -> float:
            left = abs(task.rows * self._seconds_a_row.get(task.replica.name, usual) - (now - task.since))
            return left - task.rows * mine

        best = max(tasks, key=saved, default=None)
        return best if best is not None and saved(best) > 0 else None
