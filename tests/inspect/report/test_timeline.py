"""Events of drivers, made by hand, on one axis of time."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.inspect.report.event_logs import read_timeline
from pipeline.inspect.report.timeline import Timeline, merged, occupancy, rates, tail
from pipeline.store.base import open_store

Event = tuple[float, str, dict[str, Any]]


def logged(folder: Path, *drivers: list[Event], end: str = "") -> Timeline:
    store = open_store(str(folder))
    for number, events in enumerate(drivers):
        lines = [
            json.dumps({"time": datetime.fromtimestamp(1e9 + at, UTC).isoformat(), "event": name, **facts})
            for at, name, facts in events
        ]
        store.put(f"_job/events/{number}.jsonl", ("\n".join(lines) + "\n" + end).encode())
    return read_timeline(store)


def started(shard: int, replica: str) -> dict[str, Any]:
    return {"shard": shard, "attempt": 1, "replica": replica}


def committed(shard: int, tokens: int) -> dict[str, Any]:
    return {"shard": shard, "rows": 10, "completion_tokens": tokens, "already_there": False}


FIRST: list[Event] = [
    (0, "driver_start", {"missing": 4}),
    (10, "replica_up", {"replica": "a", "node": "n"}),
    (10, "replica_up", {"replica": "b", "node": "n"}),
    (10, "shard_started", started(0, "a")),
    (10, "shard_started", started(1, "b")),
    (20, "shard_committed", committed(0, 1000)),
    (25, "replica_down", {"replica": "b", "reason": "killed", "shards": [1], "counts": True}),
    (30, "driver_stop", {"reason": "Interrupted"}),
]
SECOND: list[Event] = [
    (1030, "driver_start", {"missing": 3}),
    (1040, "replica_up", {"replica": "a", "node": "n"}),
    (1040, "shard_started", started(1, "a")),
    (1050, "shard_committed", committed(1, 500)),
    (1050, "driver_stop", {"reason": "complete"}),
]


def test_a_pause_between_two_drivers_takes_no_time_on_the_axis(tmp_path: Path) -> None:
    found = logged(tmp_path, FIRST, SECOND)
    assert found.length == 50 and found.pauses == [(30, 1000)]
    assert found.clock(1e9 + 500) == 30 and found.clock(1e9 + 1040) == 40
    assert [s.stopped for s in found.sessions] == ["Interrupted", "complete"]
    assert rates(found, 5) == pytest.approx([0, 100, 0, 0, 50])
    assert found.rate == pytest.approx(1500 / 20)
    assert occupancy(found, 5) == [None] * 5, "drivers of earlier versions did not log it"


def test_a_lane_has_its_loading_its_work_and_its_death(tmp_path: Path) -> None:
    a, b, _ = logged(tmp_path, FIRST, SECOND).lanes
    assert (a.since, a.up, a.down) == (1e9, 1e9 + 10, None) and merged(a) == [(1e9 + 10, 1e9 + 20)]
    assert (b.down, b.reason, merged(b)) == (1e9 + 25, "killed", [(1e9 + 10, 1e9 + 25)])


def test_the_tail_names_the_last_part_and_how_many_had_work(tmp_path: Path) -> None:
    events: list[Event] = [
        (0, "driver_start", {}),
        *((0, "replica_up", {"replica": r}) for r in "ab"),
        (0, "shard_started", started(0, "a")),
        (0, "shard_started", started(7, "b")),
        (98, "shard_committed", committed(0, 10)),
        (100, "shard_committed", committed(7, 10)),
    ]
    found = tail(logged(tmp_path, events))
    assert found is not None
    assert (found.shard, found.replica, found.took, found.alive) == (7, "b", 100, 2)
    assert found.seconds == pytest.approx(5) and found.busy == pytest.approx((3 + 5) / 5)
    assert tail(Timeline([])) is None


def test_progress_gives_throughput_and_occupancy(tmp_path: Path) -> None:
    def pace(tokens: int, running: int) -> dict[str, Any]:
        return {"tokens": tokens, "running": running, "capacity": 8}

    events: list[Event] = [
        (0, "driver_start", {}),
        (10, "replica_up", {"replica": "a"}),
        (20, "progress", pace(100, 8)),
        (30, "progress", pace(300, 4)),
        (40, "progress", pace(300, 4)),
        (40, "shard_committed", committed(0, 10**6)),
    ]
    found = logged(tmp_path, events)
    assert rates(found, 4) == pytest.approx([0, 10, 20, 0])
    assert occupancy(found, 4) == [None, None, 0.5, 0.5]


def test_a_long_run_is_told_by_its_summaries(tmp_path: Path) -> None:
    events: list[Event] = [
        (0, "driver_start", {}),
        (60, "summary", {"seconds": 50.0, "shard_committed": 5, "rows": 50, "completion_tokens": 5000}),
        (60, "driver_stop", {"reason": "complete"}),
    ]
    found = logged(tmp_path, events)
    assert rates(found, 6) == pytest.approx([0, 100, 100, 100, 100, 100]) and found.sessions[0].summed


def test_what_is_no_event_is_left_out(tmp_path: Path) -> None:
    odd: list[Event] = [
        (0, "driver_start", {}),
        (1, "replica_up", {}),
        (2, "shard_committed", {"shard": "x"}),
        (3, "progress", {"tokens": None}),
        (3, "progress", {"tokens": float("inf"), "running": 1, "capacity": 1}),
        (4, "new_event", {"a": 1}),
    ]
    found = logged(tmp_path, odd, end='[1]\n{"time": 5, "event": "x"}\n{"time": "2001-09-09T01:46:4')
    assert found.length == 4 and not found.lanes
    (tmp_path / "_job" / "events" / "9.jsonl").write_bytes(b"\xff\x00")
    assert len(read_timeline(open_store(str(tmp_path))).sessions) == 1
    assert read_timeline(open_store(str(tmp_path / "none"))).length == 0
