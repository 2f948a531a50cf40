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
from pipeline.output.record import events
from pipeline.output.record.events import EventLog
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


def test_in_a_large_file_frequent_events_are_counted_and_all_others_kept(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "DETAIL_BYTES", 1000)
    clock = Clock()
    with EventLog(store, NAME, clock=clock) as log:
        for number in range(1000):
            clock.now += 0.5
            log.add_frequent("done", shard=number, sums=("rows",), rows=7)
            if number % 100 == 50:
                log.add("fault", shard=number)
    written = lines(store)
    kept, summaries = ([line for line in written if line["event"] == name] for name in ("done", "summary"))
    assert [line["shard"] for line in kept] == list(range(len(kept)))
    assert 5 < len(kept) < 20, "as many as have room"
    assert len(kept) + sum(line["done"] for line in summaries) == 1000
    assert sum(line["rows"] for line in (*kept, *summaries)) == 7000
    assert [line["seconds"] for line in summaries[:-1]] == [60.0] * 8
    assert [line["shard"] for line in written if line["event"] == "fault"] == list(range(50, 1000, 100))
    assert "sums" not in kept[0]


def test_what_is_sent_does_not_grow_with_the_square_of_the_events(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BYTES_A_SECOND", 100)
    clock, sent = Clock(), list[int]()
    monkeypatch.setattr(store, "put", lambda name, data: sent.append(len(data)))
    log = EventLog(store, NAME, clock=clock)
    for number in range(2000):
        log.add("e", number=number)
        clock.now += 10.0
    assert sum(sent) < 1.1 * 100 * clock.now < sum(64 * number for number in range(2000)) / 10
    assert sent[-1] > 100_000
