from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu import __main__ as supervisor
from benchmarks.gpu import worker
from benchmarks.gpu.bench import DEMO, Bench
from benchmarks.gpu.device import Cpu, Span
from benchmarks.gpu.limits import LIMITS, OutOfTime
from benchmarks.gpu.measured import correctness, peers, roofline, same_bytes, throughput
from benchmarks.gpu.measured.attention import make_case, masked
from benchmarks.gpu.report import LONGEST_TABLE, Reporter, ends, failures, ratios, read, table
from benchmarks.gpu.scale import FULL, TINY, Load
from pipeline.engine.base import BuiltEngine
from pipeline.engine.plain.attention import attend
from pipeline.types import Completion, Request, SamplingParams

ROOT = Path(__file__).parents[2]
FAKE = """
import json, os, sys, time
file, *parts = sys.argv[1:]
def event(part, kind, **values):
    with open(file, "a") as out:
        out.write(json.dumps({"part": part, "event": kind, "time": time.time(), **values}) + "\\n")
for part in parts:
    event(part, "start")
    if part == "roofline":
        os._exit(9)
    if part == "options":
        time.sleep(3600)
    event(part, "done")
"""
"""A worker that dies in one part and hangs in another."""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Cpu(), TINY, tmp_path, Reporter(tmp_path / "events", "part"), time.time() + 3600)


def rows(bench: Bench) -> list[dict[str, Any]]:
    return [event for event in read(bench.report.file) if event["event"] == "row"]


def test_every_part_has_a_limit() -> None:
    assert list(worker.PARTS) == list(LIMITS)


def test_what_dies_or_hangs_does_not_keep_the_rest_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "events"
    monkeypatch.setattr(supervisor, "GRACE", 0)
    monkeypatch.setitem(LIMITS, "options", 1)
    names = ["machine", "roofline", "profile", "options", "other sizes"]
    supervisor.supervise([sys.executable, "-c", FAKE, str(events)], events, names, time.time() + 3600)
    assert ends(read(events)) == {
        "machine": "done", "roofline": "died: exit status 9", "profile": "done", "options": "died: signal 9",
        "other sizes": "done",
    }  # fmt: skip
    assert failures(read(events)) == ["options", "roofline"]


def test_a_process_that_never_begins_ends_each_part(tmp_path: Path) -> None:
    events = tmp_path / "events"
    supervisor.supervise(
        [sys.executable, "-c", "raise SystemExit(3)"], events, ["machine", "profile"], time.time() + 3600
    )
    assert ends(read(events)) == dict.fromkeys(["machine", "profile"], "died: exit status 3")


def test_a_part_that_fails_is_told_and_the_next_one_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Bench) -> None:
        raise ValueError("no such kernel")

    monkeypatch.setitem(worker.PARTS, "part", fail)
    monkeypatch.setitem(LIMITS, "part", 60)
    worker.run("part", bench)
    assert ends(read(bench.report.file))["part"].endswith("ValueError: no such kernel")
    assert "- part: ValueError: no such kernel" in table(read(bench.report.file))


def test_a_part_that_ran_out_of_time_is_no_failure_if_the_budget_is_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(bench: Bench) -> None:
        bench.deadline = time.time() - 1
        raise OutOfTime("took longer than its limit")

    monkeypatch.setitem(worker.PARTS, "part", late)
    monkeypatch.setitem(LIMITS, "part", 60)
    worker.run("part", bench)
    assert ends(read(bench.report.file))["part"].startswith("skipped")
    assert failures(read(bench.report.file)) == []


def test_the_table_tells_results_limits_and_ratios(tmp_path: Path) -> None:
    report = Reporter(tmp_path / "events", "throughput")
    for engine, tokens in (("promptmill 256", 4000), ("promptmill 512", 6000), ("generate 256", 1000)):
        report.event("run", engine=engine, load="mixed", tokens=tokens, seconds=2.0)
    Reporter(tmp_path / "events", "options").event("run", engine="promptmill 256", load="mixed", tokens=9e9, seconds=1)
    report.row("a", 12345.6, "tok/s", "note")
    report.row("b", 0.5, good=False)
    events = read(tmp_path / "events")
    assert "| throughput | a | 12,346 tok/s | note |  |" in table(events)
    assert "| throughput | b | 0.5 |  | **NOT GOOD** |" in table(events)
    assert ratios(events) == ["- mixed, best runs: promptmill 3,000 (512 at once) ÷ generate 500 (256) = 6 ×"]
    assert failures(events) == ["throughput"]
    for _ in range(300):
        report.row("long", "x" * 50)
    report.event("failed", why="lines\nthe last one")
    assert len(table(read(tmp_path / "events"))) <= LONGEST_TABLE
    assert table(read(tmp_path / "events")).endswith("- throughput: the last one")


def test_busy_and_gaps_of_spans_that_overlap() -> None:
    spans = [Span("a", 10, 20), Span("b", 15, 18), Span("c", 19, 30), Span("d", 40, 41)]
    assert roofline.busy_and_gaps(spans) == (21, 10)


def test_the_bytes_of_a_token_are_those_of_the_design() -> None:
    large = FULL.large
    per_token = roofline.token_bytes(large.layers, large.heads, large.width // large.heads, torch.bfloat16)
    assert per_token == 36 * 2 * 1280 * 2  # 184 KB


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_the_dense_cache_is_the_blocked_one(dtype: torch.dtype) -> None:
    case = make_case(3, 2, 16, (5, 70), dtype, "cpu")
    spots = [(i, 1, int(length) - 1, i) for i, length in enumerate(case.lengths)]
    sides = [side if dtype == torch.int8 else side.float() for side in (case.keys, case.values)]
    expected = attend((case.q.float() * case.scale)[:, :, None], sides[0], sides[1], spots, case.tables)[:, :, 0]
    assert float((masked(case).float() - expected).norm() / expected.norm()) < 1e-2


def test_errors_ranks_and_greedy_tokens_against_known_logits() -> None:
    logits = [torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.1, 5.0]], dtype=torch.float64)]
    done = [Completion(Request("r", 0, (1,), SamplingParams(temperature=0)), token_ids=(1, 1))]
    exact = correctness.measured(logits, done)
    assert exact.ranks.tolist() == [1, 2]
    np.testing.assert_allclose(exact.logprobs, [logits[0][i].log_softmax(-1)[1] for i in range(2)])
    twice = correctness.Measured(2 * exact.logprobs, exact.entropies, exact.ranks)
    assert correctness.errors(twice, exact) == pytest.approx({"logprobs": 1, "entropies": 0})
    assert correctness.ranks_outside(np.array([1.0, 3.0]), logits, done, 0.01) == 0.5
    assert correctness.ranks_outside(np.array([1.0, 3.0]), logits, done, 0.06) == 0  # 0.0 and 0.1 may be the other way
    assert correctness.greedy(done, logits) == pytest.approx((0.5, 4.9))


@pytest.mark.parametrize(("other", "value"), [("float32", "2 of 2"), ("bfloat16", "1 of 2")])
def test_bytes_that_differ_are_told(bench: Bench, other: str, value: str) -> None:
    def build(*, seqs: int, **options: Any) -> BuiltEngine:
        return bench.engine(DEMO, seqs=seqs, dtype="float32" if seqs == 8 else other, **options)

    same_bytes._compare(bench, build, "label", (same_bytes.Way(8), same_bytes.Way(3, 1)), each=1, new=6)
    assert [(row["value"], row["good"]) for row in rows(bench)] == [(value, other == "float32")]


def test_the_two_ways_to_run_transformers_count_the_same_tokens(bench: Bench) -> None:
    work = Load("mixed", "mixed", 5).work(0, TINY.large.vocab)
    work = [(prompt, min(new, 9)) for prompt, new in work]
    static = peers.static(bench.peer(), work, 2, bench.device, 60)
    continuous = peers.continuous(bench.peer(), work, 3, bench.device, 60)
    assert static.tokens == continuous.tokens == static.wanted == sum(new for _, new in work)
    assert static.note == ""
    short = peers.continuous(bench.peer(), [(prompt, 400) for prompt, _ in work], 3, bench.device, 0.2)
    assert 0 <= short.tokens < short.wanted
    assert short.note.startswith("cut short")


def test_without_a_gpu_it_says_so_once_and_writes_nothing(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"],
        capture_output=True,
        text=True,
        env={**os.environ, "OUT": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (2, "") and not list(tmp_path.iterdir())
    assert done.stderr.splitlines()[-1].endswith("torch sees no GPU here; --device cpu --tiny runs it without one")


def test_promptmill_beside_transformers(bench: Bench) -> None:
    throughput.compare(bench)
    found = {row["what"]: row["value"] for row in rows(bench)}
    assert found["mixed, promptmill ÷ generate"] == pytest.approx(
        found["mixed, promptmill 8"] / found["mixed, generate 8"]
    )


@pytest.mark.slow
def test_every_part_runs_on_a_processor(tmp_path: Path) -> None:
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable}
    done = subprocess.run(
        [ROOT / "benchmarks" / "gpu.sh", "--device", "cpu", "--tiny"], env=environment, capture_output=True, text=True,
        check=False, timeout=600,
    )  # fmt: skip
    events = json.loads((tmp_path / "gpu_results.json").read_text())["events"]
    assert {part: end for part, end in ends(events).items() if end != "done"} == {}, done.stdout
    assert (failures(events), done.returncode) == ([], 0), done.stdout
