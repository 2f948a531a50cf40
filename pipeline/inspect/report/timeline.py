"""What happened when in a run: one axis of time for all drivers, throughput, occupancy, a lane per replica."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

Span = tuple[float, float]


@dataclass
class Lane:
    """A replica. Times are seconds since 1970; an open end is None.

    Attributes:
        driver: Number of its driver's session.
        name: As its driver calls it.
        node: Where it was.
        since: When its driver began, or the replica before it was gone: it was loading from then on.
        up: When it was ready.
        down: When it was gone, and why.
        busy: From when until when it had which shard; overlapping where it had two.
    """

    driver: int
    name: str
    node: str
    since: float
    up: float
    down: float | None = None
    reason: str = ""
    busy: list[tuple[float, float, int]] = field(default_factory=list)


@dataclass
class Session:
    """A driver's work from its start to its last event.

    `stopped` is why it ended; None: it was killed, or is at work. `tokens` are spans of time with the tokens made in
    them, `pace` are (time, running sequences, sequences that fit).
    """

    start: float
    end: float
    stopped: str | None = None
    lanes: list[Lane] = field(default_factory=list)
    tokens: list[tuple[float, float, int]] = field(default_factory=list)
    pace: list[tuple[float, int, int]] = field(default_factory=list)
    commits: list[tuple[float, int]] = field(default_factory=list)
    summed: bool = False


@dataclass
class Timeline:
    """All sessions, in the order of their starts."""

    sessions: list[Session]

    @property
    def lanes(self) -> list[Lane]:
        """Return the replicas of all sessions."""
        return [lane for session in self.sessions for lane in session.lanes]

    @property
    def working(self) -> list[Span]:
        """Return the spans of time in which a driver was at work, which do not overlap."""
        return _union((session.start, session.end) for session in self.sessions)

    @property
    def length(self) -> float:
        """Return the seconds in which a driver was at work."""
        return sum(end - start for start, end in self.working)

    def clock(self, time: float) -> float:
        """Return a time on the axis: seconds of work before it. Pauses between drivers take none."""
        return sum(max(0.0, min(time, end) - start) for start, end in self.working)

    @property
    def rate(self) -> float | None:
        """Return the tokens per second from when a replica was ready until the last part, summed over sessions."""
        tokens = seconds = 0.0
        for session in self.sessions:
            if session.lanes and (ends := [time for time, _ in session.commits] or [time for time, *_ in session.pace]):
                seconds += max(0.0, max(ends) - min(lane.up for lane in session.lanes))
                tokens += sum(made for *_, made in session.tokens)
        return tokens / seconds if tokens and seconds > 0 else None

    @property
    def pauses(self) -> list[tuple[float, float]]:
        """Return where on the axis nothing was at work, and for how many seconds."""
        spans = self.working
        return [(self.clock(a[1]), b[0] - a[1]) for a, b in itertools.pairwise(spans)]


@dataclass(frozen=True, slots=True)
class Tail:
    """The last part of the work.

    Attributes:
        seconds: How long it was: up to the last commit.
        alive: Replicas that were there when it began.
        busy: How many of them had work, averaged over it.
        shard: The shard that was committed last.
        replica: Who had it; empty if that was not logged.
        took: Seconds it was in flight; None if that was not logged.
    """

    seconds: float
    alive: int
    busy: float
    shard: int
    replica: str
    took: float | None


def tail(timeline: Timeline, share: float = 0.05) -> Tail | None:
    """Return what the last 5 % of the time waited for; None where no part was committed one by one."""
    commits = [commit for session in timeline.sessions for commit in session.commits]
    if not commits:
        return None
    end, shard = max(commits)
    begin = max(end - share * timeline.length, max(s.start for s in timeline.sessions if s.start <= end))
    alive = [lane for lane in timeline.lanes if lane.up <= end and (lane.down is None or lane.down >= begin)]
    alive = [lane for lane in alive if timeline.sessions[lane.driver].end >= begin]
    seconds = max(end - begin, 1e-9)
    covered = sum(_covered(lane, begin, end) for lane in alive)
    last = [(a, lane) for lane in alive for a, b, s in lane.busy if s == shard and b >= end]
    since, holder = min(last, key=lambda found: found[0]) if last else (None, None)
    return Tail(
        end - begin,
        len(alive),
        covered / seconds,
        shard,
        holder.name if holder else "",
        None if since is None else end - since,
    )


def merged(lane: Lane) -> list[Span]:
    """Return the spans in which a replica had work, which do not overlap."""
    return _union((start, end) for start, end, _ in lane.busy)


def _union(spans: Iterable[Span]) -> list[Span]:
    """Merge spans that overlap or touch; return them in order."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _covered(lane: Lane, begin: float, end: float) -> float:
    return sum(max(0.0, min(b, end) - max(a, begin)) for a, b in merged(lane))


def rates(timeline: Timeline, bins: int) -> list[float]:
    """Return tokens per second in each of `bins` equal stretches of the axis."""
    made = [0.0] * bins
    width = timeline.length / bins
    if width <= 0:
        return made
    for session in timeline.sessions:
        for start, end, tokens in session.tokens:
            _spread(made, timeline.clock(start) / width, timeline.clock(end) / width, tokens / width)
    return made


def occupancy(timeline: Timeline, bins: int) -> list[float | None]:
    """Return running sequences per sequence that fits, in each of `bins` equal stretches; None where it is not known."""
    running, capacity = [0.0] * bins, [0.0] * bins
    width = timeline.length / bins
    for session in timeline.sessions if width > 0 else ():
        for (start, *_), (end, now, fits) in zip(session.pace, session.pace[1:], strict=False):
            span = timeline.clock(start) / width, timeline.clock(end) / width
            _spread(running, *span, now * (span[1] - span[0]))
            _spread(capacity, *span, fits * (span[1] - span[0]))
    return [r / c if c > 0 else None for r, c in zip(running, capacity, strict=True)]


def _spread(into: list[float], start: float, end: float, amount: float) -> None:
    """Add an amount evenly over the bins from `start` to `end`, bins as unit."""
    last = len(into) - 1
    if end <= start:
        into[min(last, max(0, int(start)))] += amount
        return
    for at in range(max(0, int(start)), min(last, int(end)) + 1):
        into[at] += amount * max(0.0, min(end, at + 1) - max(start, at)) / (end - start)
