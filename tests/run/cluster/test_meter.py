"""What is published is what Ray's endpoint shows, and what is not published any more is soon gone from there."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("aiohttp", "prometheus_client")),
        reason="ray[default], which has the endpoint, is not installed",
    ),
]

SCRIPT = """
import json, sys, time, urllib.request
from prometheus_client.parser import text_string_to_metric_families
from pipeline.run.config import ClusterConfig
from pipeline.run.cluster.guardian import Guardian
from pipeline.run.show.metrics import Metrics
from pipeline.run.show.snapshot import RunSnapshot
from pipeline.run.cluster.connect import connect, ray
from pipeline.run.cluster.meter import RayMeter
from pipeline.types import Progress, Room, ShardReport

meter = RayMeter()
metrics = Metrics(meter, plan="0123abcd", driver="me", deadline=None, starting=lambda: 1)
before = meter.ready()
guardian = Guardian()
connect(ClusterConfig(), guardian.folder, lambda line: print(line, file=sys.stderr))
port = ray.nodes()[0]["MetricsExportPort"]
a = Progress(completion_tokens=70, engine_seconds=0.5, running=3, waiting=9, steps=40, room=Room(4, 10, 64))
b = Progress(completion_tokens=30, engine_seconds=0.25, running=1, steps=2, room=Room(4, 1, 64))

def seen():
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    except OSError:  # it is not there yet
        return []
    return [(s.name, s.labels, s.value, f.type) for f in text_string_to_metric_families(text)
            for s in f.samples if s.name.startswith("ray_promptmill_")]

def publish(replicas, alive, until):
    end = time.monotonic() + 900
    while time.monotonic() < end:
        metrics.publish(RunSnapshot(rows_done=5, rows_total=24, shards_done=1, shards_total=6), replicas, alive)
        found = seen()
        if until(found):
            return found
        time.sleep(0.2)
    sys.exit("it does not come")

def has(found, name, **labels):
    return any(n == "ray_promptmill_" + name and labels.items() <= l.items() for n, l, *_ in found)

first = publish({"a": a, "b": b}, ["a", "b"], lambda found: has(found, "kv_blocks", replica="b"))
metrics.report(ShardReport(1, "f", 4, 8, 10, 20, {"NULL_PROMPT": 2}, ""))
metrics.event("replica_down", {"counts": False, "reason": "its node died"})
metrics.stop("finished")
second = publish({"a": a, "b": b}, ["b"], lambda found: not has(found, "kv_blocks", replica="a")
                 and has(found, "replica_deaths_total"))
print(json.dumps([before, first, second]))
ray.shutdown()
guardian.close()
"""


@pytest.fixture(scope="module")
def seen() -> list[Any]:
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=root, text=True, capture_output=True, timeout=2000, check=False,
        env={**os.environ, "PYTHONPATH": root, "RAY_metrics_report_interval_ms": "1000"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def values(found: list[Any]) -> dict[tuple[str, ...], float]:
    """Name without its prefixes, and tags of ours beside those of the run → value."""
    result = {}
    for name, labels, value, _ in found:
        assert (labels["plan"], labels["driver"]) == ("0123abcd", "me")
        mine = [labels[tag] for tag in ("reason", "code", "kind", "state", "replica") if tag in labels]
        result[name.removeprefix("ray_promptmill_"), *mine] = value
    return result


def test_numbers_arrive_as_they_were_published(seen: list[Any]) -> None:
    ready_without_ray, first, _ = seen
    assert ready_without_ray is False
    shown = values(first)
    times = [shown.pop((f"last_{what}_timestamp_seconds",)) for what in ("progress", "seen")]
    assert 1.7e9 < times[0] <= times[1]
    assert shown == {
        ("driver_starts_total",): 1,
        ("completion_tokens_total",): 100,
        ("engine_seconds_total",): 0.75,
        ("engine_steps_total",): 42,
        ("rows_planned",): 24,
        ("rows_done",): 5,
        ("shards_planned",): 6,
        ("shards_committed",): 1,
        ("replicas", "ready"): 2,
        ("replicas", "starting"): 1,
        ("running_sequences", "a"): 3,
        ("running_sequences", "b"): 1,
        ("waiting_sequences", "a"): 9,
        ("waiting_sequences", "b"): 0,
        ("max_running_sequences", "a"): 4,
        ("max_running_sequences", "b"): 4,
        ("kv_blocks_used", "a"): 10,
        ("kv_blocks_used", "b"): 1,
        ("kv_blocks", "a"): 64,
        ("kv_blocks", "b"): 64,
    }


def test_kinds_are_what_the_names_say(seen: list[Any]) -> None:
    kinds = {(name.endswith("_total"), kind) for found in seen[1:] for name, _, _, kind in found}
    assert kinds == {(True, "counter"), (False, "gauge")}


def test_a_replica_that_is_gone_leaves_counters_and_no_gauge(seen: list[Any]) -> None:
    shown = values(seen[2])
    assert [key for key in shown if "a" in key] == []
    assert shown["running_sequences", "b"] == 1
    assert shown["engine_steps_total",] == 42
    assert shown["replica_deaths_total", "lost"] == 1
    assert shown["row_errors_total", "NULL_PROMPT"] == 2
    assert shown["output_rows_total",] == 8
    assert shown["driver_stops_total", "finished"] == 1
