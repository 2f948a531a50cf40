"""Reads the event logs of all drivers into a timeline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pipeline.errors import PromptmillError
from pipeline.inspect.report.timeline import Lane, Session, Timeline
from pipeline.output.folder import EVENTS
from pipeline.store.base import Store
from pipeline.store.door import fetch

MOST_BYTES = 1 << 26
"""Most bytes of an event log that is read; a driver's has a quarter of that."""


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
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
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
            except (KeyError, TypeError, ValueError, OverflowError):
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
