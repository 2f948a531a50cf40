"""The state of a run at a moment, its figures as text, and an estimate of the time left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.wording import UNKNOWN, by_code, counted, duration


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """The state of a run.

    Attributes:
        rows_done: Input rows in committed parts, those of an earlier start included.
        rows_total: Input rows planned.
        rows_before: Input rows that were in committed parts at this start.
        tokens: Tokens generated since this start, those of unfinished completions included.
        tokens_per_second: The recent rate; None until it is known.
        tokens_left: Estimated number of tokens still to be made; None while unknown.
        tokens_elsewhere: Estimated number of tokens that other drivers have made since this start.
        errors: Error code → rows that became such errors since this start.
        replicas: Replicas at work.
        shards_done: Committed parts, those of an earlier start included.
        shards_total: Parts planned.
        elapsed_seconds: Time since this start.
        running: Sequences being generated now.
        slots: Sequences that the replicas can generate at once; 0: unknown.
    """

    rows_done: int
    rows_total: int
    rows_before: int = 0
    tokens: int = 0
    tokens_per_second: float | None = None
    tokens_left: float | None = None
    tokens_elsewhere: float = 0.0
    errors: Mapping[str, int] = field(default_factory=dict)
    replicas: int = 0
    shards_done: int = 0
    shards_total: int = 0
    elapsed_seconds: float = 0.0
    running: int = 0
    slots: int = 0


class TimeLeft:
    """Estimates the time left: the remaining tokens at the rate of all drivers since work began.

    Tokens of an earlier start, and the time before the first token, do not count.
    """

    def __init__(self) -> None:
        """Start without an estimate."""
        self._start: tuple[float, float] | None = None

    def update(self, snapshot: RunSnapshot) -> float | None:
        """Take a new state, and return the seconds left, or None while unknown."""
        if snapshot.rows_done >= snapshot.rows_total:
            return 0.0
        now, made = snapshot.elapsed_seconds, snapshot.tokens + snapshot.tokens_elsewhere
        if self._start is None:
            if snapshot.running or made:
                self._start = (made, now)
            return None
        before, since = self._start
        if snapshot.tokens_left is None or made <= before or now <= since:
            return None
        return snapshot.tokens_left * (now - since) / (made - before)


def rows(snapshot: RunSnapshot) -> str:
    """Return how many rows are done, of how many."""
    return f"{snapshot.rows_done:,}/{snapshot.rows_total:,} rows"


def parts(snapshot: RunSnapshot) -> str:
    """Return how many parts are committed, of how many."""
    return f"{snapshot.shards_done:,}/{snapshot.shards_total:,} parts"


def figures(snapshot: RunSnapshot) -> list[str]:
    """Return the figures of this start; they say so if rows and parts include an earlier start."""
    rate = UNKNOWN if snapshot.tokens_per_second is None else f"{snapshot.tokens_per_second:,.0f}"
    return [
        f"{'this start: ' if snapshot.rows_before else ''}{rate} tokens/s",
        f"{snapshot.tokens:,} tokens",
        _errors(snapshot),
        f"{duration(snapshot.elapsed_seconds)} elapsed",
        f"{counted(snapshot.replicas, 'replica')}, {_occupancy(snapshot)}",
    ]


def _errors(snapshot: RunSnapshot) -> str:
    """Return the number of errors, and how many there are of each code."""
    total = counted(sum(snapshot.errors.values()), "error")
    return f"{total} ({by_code(snapshot.errors)})" if snapshot.errors else total


def _occupancy(snapshot: RunSnapshot) -> str:
    return f"{snapshot.running:,}{f' of {snapshot.slots:,}' if snapshot.slots else ''} running"
