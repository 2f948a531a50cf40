"""The event log: lines, spacing of writes, and trouble."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StorageFull
from pipeline.output.events import EventLog
from pipeline.store.local import LocalStore

NAME = "_job/events/d.jsonl"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(store: LocalStore) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.get(NAME).splitlines()]


def test_a_line_has_the_time_the_event_and_its_facts(store: LocalStore) -> None:
    with EventLog(store, NAME) as log:
        log.add("shard_done", shard=3, text='two\nlines "é" \ud800', where=Path("x"))
    [line] = lines(store)
    assert datetime.fromisoformat(line.pop("time")).utcoffset() == timedelta(0)
    assert line == {"event": "shard_done", "shard": 3, "text": 'two\nlines "é" \ud800', "where": "x"}


def test_the_first_event_is_written_at_once_and_others_at_most_once_a_second(store: LocalStore) -> None:
    clock = Clock()
    log = EventLog(store, NAME, clock=clock)
    for now, written in ((0.0, 1), (0.5, 1), (0.99, 1), (1.0, 4), (1.5, 4), (2.1, 6)):
        clock.now = now
        log.add("tick", now=now)
        assert len(lines(store)) == written
    log.add("last")
    log.close()
    assert [line.get("now") for line in lines(store)] == [0.0, 0.5, 0.99, 1.0, 1.5, 2.1, None]


def test_writes_that_take_long_become_rarer(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    put = store.put

    def slow(name: str, data: bytes | memoryview) -> None:
        clock.now += 2.0
        put(name, data)

    monkeypatch.setattr(store, "put", slow)
    log = EventLog(store, NAME, clock=clock)
    log.add("first")
    clock.now = 21.0
    log.add("second")
    assert len(lines(store)) == 1
    clock.now = 22.0
    log.add("third")
    assert len(lines(store)) == 3


def test_a_log_that_cannot_be_written_stops_nothing(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise StorageFull("no space")

    log = EventLog(store, NAME)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(store, "put", full)
        log.add("lost")
    assert "no space" in caplog.text
    log.close()
    assert [line["event"] for line in lines(store)] == ["lost"]


def test_many_threads(store: LocalStore) -> None:
    with EventLog(store, NAME) as log, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: log.add("e", i=i), range(200)))
    assert sorted(line["i"] for line in lines(store)) == list(range(200))


def test_a_closed_log_without_events_makes_no_file(store: LocalStore) -> None:
    EventLog(store, NAME).close()
    assert list(store.list()) == []
