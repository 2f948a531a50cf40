"""What happened when, from the event logs of all drivers: one axis of time, throughput, occupancy, a lane per replica."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeline.errors import PromptmillError
from pipeline.output.folder import EVENTS
from pipeline.store.base import Store
from pipeline.store.door import fetch

MOST_BYTES = 1 << 26
"""Most bytes of an event log that is read; a driver's has a quarter of that."""
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
    taken_over: int = 0
    copied: int = 0
    blamed: int = 0
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
        found: list[Span] = []
        for start, end in sorted((s.start, s.end) for s in self.sessions):
            if found and start <= found[-1][1]:
                found[-1] = found[-1][0], max(found[-1][1], end)
            else:
                found.append((start, end))
        return found

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


def read_timeline(store: Store) -> Timeline:
    """Read all event logs; what cannot be read is left out."""
    sessions: list[tuple[float, str, Session]] = []
    for file in store.list(EVENTS):
        try:
            data = fetch(store, file.name, MOST_BYTES)
        except (FileNotFoundError, ValueError, OSError, PromptmillError):
            continue
        found = _Reader(len(sessions)).read(_lines(data))
        if found is not None:
            sessions.append((found.start, file.name, found))
    ordered = [session for *_, session in sorted(sessions, key=lambda s: s[:2])]
    for number, session in enumerate(ordered):
        for lane in session.lanes:
            lane.driver = number
    return Timeline(ordered)


def _lines(data: bytes) -> Iterator[tuple[float, str, Mapping[str, Any]]]:
    """Yield time, event and facts of each line; a half line, of a driver at work, is left out."""
    for line in data.splitlines():
        try:
            facts = json.loads(line)
            yield datetime.fromisoformat(facts["time"]).timestamp(), str(facts["event"]), facts
        except (ValueError, KeyError, TypeError, RecursionError):
            continue


class _Reader:
    """Reads the events of one driver."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._session: Session | None = None
        self._alive: dict[str, Lane] = {}
        self._open: dict[int, list[tuple[float, Lane]]] = {}
        self._before: tuple[float, int] | None = None
        self._since = 0.0

    def read(self, lines: Iterator[tuple[float, str, Mapping[str, Any]]]) -> Session | None:
        spread: list[tuple[float, float, int]] = []
        for time, event, facts in lines:
            if self._session is None:
                self._session, self._since = Session(time, time), time
            session = self._session
            session.end = max(session.end, time)
            try:
                self._take(session, time, event, facts, spread)
            except (KeyError, TypeError, ValueError):
                continue
        if self._session is None:
            return None
        for shard in list(self._open):
            self._close(shard, self._session.end)
        if not self._session.pace:
            self._session.tokens = spread
        return self._session

    def _take(
        self,
        session: Session,
        time: float,
        event: str,
        facts: Mapping[str, Any],
        spread: list[tuple[float, float, int]],
    ) -> None:
        if event == "replica_up":
            lane = Lane(self._number, str(facts["replica"]), str(facts.get("node", "")), self._since, time)
            self._alive[lane.name] = lane
            session.lanes.append(lane)
            self._before = self._before or (time, 0)
        elif event == "replica_down":
            self._down(time, facts)
        elif event == "shard_started" and (holder := self._alive.get(str(facts["replica"]))) is not None:
            self._open.setdefault(int(facts["shard"]), []).append((time, holder))
        elif event == "shard_committed":
            start = self._close(int(facts["shard"]), time)
            session.commits.append((time, int(facts["shard"])))
            if not facts.get("already_there"):
                spread.append((session.start if start is None else start, time, int(facts["completion_tokens"])))
        elif event == "summary":
            session.summed = True
            spread.append((time - float(facts["seconds"]), time, int(facts.get("completion_tokens", 0))))
        elif event == "progress":
            self._pace(session, time, int(facts["tokens"]), int(facts["running"]), int(facts["capacity"]))
        elif event == "driver_stop":
            session.stopped = str(facts["reason"])
        session.taken_over += event == "shard_taken_over"
        session.copied += event == "shard_copied"
        session.blamed += event == "row_blamed"

    def _pace(self, session: Session, time: float, tokens: int, running: int, capacity: int) -> None:
        before, made = self._before or (session.start, 0)
        session.tokens.append((before, time, max(0, tokens - made)))
        session.pace.append((time, running, capacity))
        self._before = time, tokens

    def _down(self, time: float, facts: Mapping[str, Any]) -> None:
        lane = self._alive.pop(str(facts["replica"]), None)
        if lane is None:
            return
        lane.down, lane.reason, self._since = time, str(facts.get("reason", "")), time
        for shard, holders in list(self._open.items()):
            for since, holder in [h for h in holders if h[1] is lane]:
                holders.remove((since, holder))
                lane.busy.append((since, time, shard))

    def _close(self, shard: int, time: float) -> float | None:
        """End a shard with all replicas that have it; return when the first of them began."""
        holders = self._open.pop(shard, [])
        for since, lane in holders:
            lane.busy.append((since, time, shard))
        return min((since for since, _ in holders), default=None)


@dataclass(frozen=True, slots=True)
class Tail:
    """The last part of the work.

    Attributes:
        seconds: How long it was: up to the last commit.
        alive: Replicas that were there when it began.
        busy: How many of them had work, averaged over it.
        shard: The shard that was committed last.
        replica: Who had it; empty if that was not logged.
        took: Seconds it was in hand; None if that was not logged.
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
    found: list[Span] = []
    for start, end, _ in sorted(lane.busy):
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
