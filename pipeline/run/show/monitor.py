"""Adds up the counters and reports of replicas for the display and the manifest."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable

from pipeline.planning.plan import Plan
from pipeline.run.dispatch.replica import Replica
from pipeline.run.show.reports import Reports
from pipeline.run.show.snapshot import RunSnapshot
from pipeline.types import Progress, ShardReport
from pipeline.wording import counted

WINDOW = 10.0
"""Seconds over which the displayed rate is averaged."""


class Monitor:
    """The state of a run.

    Args:
        plan: The plan.
        committed: Shards that were committed at the start.
        samples_per_row: Completions per input row, to show completions as rows.
        clock: The time in seconds.
        max_tokens: Most tokens of a completion; None: unknown.

    Attributes:
        latest: The last counters of every replica, dead ones included.
        reports: The report of each finished shard.
    """

    def __init__(
        self, plan: Plan, committed: Iterable[int], samples_per_row: int, clock: Callable[[], float] = time.monotonic,
        *, max_tokens: int | None = None,
    ) -> None:  # fmt: skip
        """Start the clock."""
        self._most = max_tokens
        self._plan, self._samples, self._clock = plan, samples_per_row, clock
        self._done = bytearray(plan.shard_count)
        self._shards_done = self._rows = 0
        for index in committed:
            self.elsewhere(index)
        self._before = self._rows
        self._reported = self._rows_reported = self._tokens_reported = 0
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
        """Record a finished shard."""
        self.reports.add(report)
        self.elsewhere(report.shard)
        self._reported += report.completions
        self._rows_reported += report.rows
        if not report.already_there:  # another driver's tokens are not this start's
            self._tokens_reported += report.completion_tokens
        self._errors.update(report.errors)

    def elsewhere(self, index: int) -> None:
        """Record a shard that another driver has committed."""
        if not self._done[index]:
            self._done[index] = True
            self._shards_done += 1
            self._rows += self._plan.shard_rows(index)

    def lost(self, in_hand: int, replicas: Iterable[Replica]) -> str:
        """Return what a stop loses: rows that are finished or begun, and not committed.

        Args:
            in_hand: Rows of the shards in flight.
            replicas: Their replicas, whose last counters are used.
        """
        finished = min(in_hand, self._uncommitted())
        running = sum(self.latest[r.name].running for r in replicas if r.name in self.latest)
        begun = min(in_hand - finished, -(-running // self._samples))
        if not finished + begun:
            return "no row in flight is lost"
        verb = "is" if finished + begun == 1 else "are"
        return f"{counted(finished + begun, 'row')} in flight {verb} lost ({finished:,} finished, {begun:,} begun)"

    def _uncommitted(self) -> int:
        """Return the number of rows that are finished, but in no committed part."""
        return max(0, sum(p.completions for p in self.latest.values()) - self._reported) // self._samples

    def snapshot(self, replicas: Iterable[Replica]) -> RunSnapshot:
        """Read the replicas' counters and add everything up."""
        alive = list(replicas)
        for replica in alive:
            self.latest[replica.name] = replica.progress()
        now, tokens = self._clock(), self.tokens_made
        self._recent.append((now, tokens))
        while now - self._recent[0][0] > WINDOW:
            self._recent.popleft()
        seconds, made = now - self._recent[0][0], tokens - self._recent[0][1]
        ended, in_hand = sum(p.completions for p in self.latest.values()), self._uncommitted()
        length = self._length(tokens, ended)
        return RunSnapshot(
            rows_done=min(self._rows + in_hand, self._plan.rows), rows_total=self._plan.rows, rows_before=self._before,
            tokens=tokens, tokens_per_second=made / seconds if made > 0 and seconds > 0 else None,
            tokens_left=None if length is None else self._tokens_left(length, in_hand, alive),
            tokens_elsewhere=(self._rows - self._before - self._rows_reported) * self._samples * (length or 0),
            errors=dict(self._errors), replicas=len(alive), shards_done=self._shards_done,
            shards_total=self._plan.shard_count, elapsed_seconds=now - self._started,
            running=sum(self.latest[r.name].running for r in alive),
            slots=sum(self.latest[r.name].room.max_num_seqs for r in alive),
        )  # fmt: skip

    def _length(self, tokens: int, ended: int) -> float | None:
        """Return the expected number of tokens of a completion; None while unknown.

        It is the number of tokens so far, running sequences included, per completion that ended: the maximum-likelihood
        estimate of a mean lifetime with censored data.
        """
        likely = tokens / ended if ended else None
        return likely if self._most is None else min(likely or self._most, self._most)

    def _tokens_left(self, length: float, in_hand: int, alive: Iterable[Replica]) -> float:
        """Return the number of tokens still to be made, by all drivers."""
        open_tokens = sum(self.latest[replica.name].room.open_tokens for replica in alive)
        completions = max(0, self._plan.rows - self._rows - in_hand) * self._samples
        return max(completions * length - open_tokens, float(completions))

    @property
    def heartbeat(self) -> tuple[int, int, int]:
        """Return numbers of which one grows with everything that any replica or driver gets done."""
        beats = sum(p.beats for p in self.latest.values())
        return beats, self.tokens_made, self._shards_done

    @property
    def completion_tokens(self) -> int:
        """Return the tokens of completions that ended since the start, those of dead replicas included."""
        return sum(p.completion_tokens for p in self.latest.values())

    @property
    def tokens_made(self) -> int:
        """Return the tokens generated since the start, unfinished completions and dead replicas included.

        Reports may arrive before the counters that include them.
        """
        return max(self._tokens_reported, sum(p.tokens_made for p in self.latest.values()))

    def timings(self) -> dict[str, float]:
        """Return the manifest's timings since this start: seconds, and generated tokens per second of the engines."""
        engine = sum(p.engine_seconds for p in self.latest.values())
        wall = self._clock() - self._started
        return {
            "wall_seconds": wall,
            "engine_seconds": engine,
            "tokens_per_second": self.completion_tokens / engine if engine > 0 else 0.0,
        }
