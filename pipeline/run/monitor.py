"""Adds up what replicas and reports say into what the display shows and the manifest keeps.

It does not know how replicas run or how anything is shown.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable

from pipeline.planning.plan import Plan
from pipeline.run.progress import RunSnapshot, counted
from pipeline.run.replica import Replica
from pipeline.run.reports import Reports
from pipeline.types import Progress, ShardReport

WINDOW = 10.0
"""Seconds over which the shown rate is taken."""


class Monitor:
    """The state of a run.

    Args:
        plan: What is made.
        committed: Shards that were there at the start.
        samples_per_row: To turn completions into rows for the display.

    Attributes:
        latest: The last counters of every replica that there was, dead ones too.
        reports: What was reported of each shard.
    """

    def __init__(
        self, plan: Plan, committed: Iterable[int], samples_per_row: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the clock."""
        self._plan, self._samples, self._clock = plan, samples_per_row, clock
        self._done = bytearray(plan.shard_count)
        self._shards_done = self._rows = 0
        for index in committed:
            self.elsewhere(index)
        self._reported = 0
        self._errors: Counter[str] = Counter()
        self.latest: dict[str, Progress] = {}
        self._recent: deque[tuple[float, int]] = deque()
        self._started = clock()
        self.reports = Reports(plan)

    @property
    def shards_done(self) -> int:
        """Committed parts."""
        return self._shards_done

    def report(self, report: ShardReport) -> None:
        """Take a finished shard."""
        self.reports.add(report)
        self.elsewhere(report.shard)
        self._reported += report.completions
        self._errors.update(report.errors)

    def elsewhere(self, index: int) -> None:
        """Take a shard that another driver has committed."""
        if not self._done[index]:
            self._done[index] = True
            self._shards_done += 1
            self._rows += self._plan.shard_rows(index)

    def lost(self, in_hand: int, replicas: Iterable[Replica]) -> str:
        """Say what a stop loses: rows that are finished or begun, and not committed.

        Args:
            in_hand: Rows of the shards that replicas have in hand.
            replicas: These replicas; their last counters are taken.
        """
        finished = min(in_hand, self._uncommitted())
        running = sum(self.latest[r.name].running for r in replicas if r.name in self.latest)
        begun = min(in_hand - finished, -(-running // self._samples))
        if not finished + begun:
            return "no row in hand is lost"
        verb = "is" if finished + begun == 1 else "are"
        return f"{counted(finished + begun, 'row')} in hand {verb} lost ({finished:,} finished, {begun:,} begun)"

    def _uncommitted(self) -> int:
        """Rows that replicas have finished, and that are in no committed part."""
        return max(0, sum(p.completions for p in self.latest.values()) - self._reported) // self._samples

    def snapshot(self, replicas: Iterable[Replica]) -> RunSnapshot:
        """Ask the replicas' counters and add everything up."""
        alive = list(replicas)
        for replica in alive:
            self.latest[replica.name] = replica.progress()
        now, tokens = self._clock(), self.completion_tokens
        self._recent.append((now, tokens))
        while now - self._recent[0][0] > WINDOW:
            self._recent.popleft()
        seconds, made = now - self._recent[0][0], tokens - self._recent[0][1]
        in_hand = self._uncommitted()  # so that a long shard is seen to move
        return RunSnapshot(
            rows_done=min(self._rows + in_hand, self._plan.rows), rows_total=self._plan.rows,
            completion_tokens=tokens, tokens_per_second=made / seconds if made and seconds > 0 else None,
            errors=sum(self._errors.values()), replicas=len(alive), shards_done=self._shards_done,
            shards_total=self._plan.shard_count, elapsed_seconds=now - self._started,
            running=sum(self.latest[r.name].running for r in alive),
        )  # fmt: skip

    @property
    def completion_tokens(self) -> int:
        """Tokens generated since the start, by dead replicas too."""
        return sum(p.completion_tokens for p in self.latest.values())

    def timings(self) -> dict[str, float]:
        """The manifest's timings, of this start: seconds, and generated tokens per second of the engines."""
        engine = sum(p.engine_seconds for p in self.latest.values())
        wall = self._clock() - self._started
        return {
            "wall_seconds": wall,
            "engine_seconds": engine,
            "tokens_per_second": self.completion_tokens / engine if engine > 0 else 0.0,
        }
