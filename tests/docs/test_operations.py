"""What the operations page lists is what there is, and its commands run."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import ExitCode
from pipeline.output.record.events import EVENTS, EventLog
from pipeline.run.show.metrics import METRICS
from pipeline.store.local import LocalStore
from tests.docs.document import ROOT, Document

OPERATIONS = Document("docs/reference/operations.md")


def test_every_metric_is_listed_with_its_tags_and_meaning() -> None:
    listed = [
        (name.strip("`"), tuple(re.findall(r"`(\w+)`", tags)), meaning)
        for name, tags, meaning in OPERATIONS.table("metric")
    ]
    assert listed == [(metric.name, metric.tags, metric.meaning) for metric in METRICS.values()]


def test_every_event_is_listed_with_its_facts() -> None:
    logged: dict[str, set[str]] = {}
    for file in (ROOT / "pipeline" / "run").rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)):
            method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            if method in ("add", "add_frequent", "on_event") and call.args and isinstance(call.args[0], ast.Constant):
                facts = {keyword.arg for keyword in call.keywords if keyword.arg} - {"sums"}
                logged.setdefault(str(call.args[0].value), set()).update(facts)
    logged["shard_started"].add("trial")  # given as **trial
    summary = set(EVENTS["summary"].facts)  # the log's own
    assert logged == {name: set(event.facts) for name, event in EVENTS.items() if name != "summary"}
    assert summary == {"seconds", "shard_committed", "rows", "completion_tokens"}


def test_every_exit_code_has_something_to_do() -> None:
    codes = [int(code) for code, *_ in OPERATIONS.table("code")]
    assert sorted(codes) == sorted({*ExitCode, 137})


@pytest.mark.parametrize("place", [0, 1])
def test_the_commands_that_read_events_run(place: int, tmp_path: Path) -> None:
    commands = [line for block in OPERATIONS.blocks("sh") for line in block.text.splitlines() if "_job/events" in line]
    _, option, code, output = shlex.split(commands[place])
    assert (option, output) == ("-c", "outputs/first")
    for driver in ("one", "two"):
        with EventLog(LocalStore(str(tmp_path)), f"_job/events/{driver}.jsonl") as events:
            events.add("driver_start", shards=2, missing=2)
            events.add("shard_committed", shard=1, rows=4)
            events.add("replica_down", replica="replica-0", reason="killed", shards=[0], counts=True)
            events.add("driver_stop", reason=f"reason-{driver}", exit_code=75)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "reason-one" in done.stdout and "reason-two" in done.stdout
