"""Faults 16, 17, 20, 21 and 22: something is killed in the middle, and the same command makes the same bytes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.small_runs import (
    INLINE,
    RAY,
    Stage,
    assert_same_rows,
    events,
    generate,
    manifest,
    no_half_files,
    overrides,
    parts,
    started,
    started_generate,
)

ROWS = 96
SHARDS = 16
OPTIONS = (
    "source.id_column=id", "source.sampling_column=how", "output.rows_per_shard=6", "sampling.max_tokens=16",
    "stats.top_logprobs=2", "stats.prompt_logprobs=true",
)  # fmt: skip
"""Many parts, so that a kill while each replica waits after its first hits the middle: two more are in its hands at most."""


def assert_resumes(source: Path, output: Path, reference: Path, *how: str) -> None:
    """Assert that what is there is whole, and that the same command does only the rest, to the same bytes."""
    before = parts(output)
    assert no_half_files(output)
    assert 0 < len(before) < SHARDS, "the kill hit the middle"
    assert not (output / "_job" / "manifest.json").exists()
    assert generate(source, output, *OPTIONS, *how) == 0
    after = parts(output)
    assert {name: after[name] for name in before} == before, "committed parts stay untouched"
    assert events(output, "driver_start")[-1]["missing"] == SHARDS - len(before)
    assert_same_rows(reference, output)
    assert manifest(output)["totals"] == manifest(reference)["totals"]


KILLED_AT_THE_LINK = """
import os, signal, sys
from pathlib import Path
from jobs.generate import main
link, when, count = os.link, sys.argv[1], 0
def fatal(source, final, **how):
    global count
    count += Path(final).parent.name == "data"
    if when == "after":
        link(source, final, **how)
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if when == "before":
        link(source, final, **how)
os.link = fatal
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("when", "there"), [("before", 2), ("after", 3)])
def test_fault_16_and_17_killed_at_the_commit(
    when: str, there: int, source: Path, reference: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with started(["-c", KILLED_AT_THE_LINK, when, *overrides(source, output, *INLINE, *OPTIONS)], output) as run:
        assert run.finish()[0] == -signal.SIGKILL
    assert len(parts(output)) == there
    assert_resumes(source, output, reference)


def test_fault_20_sigterm_to_an_inline_run(source: Path, reference: Path, tmp_path: Path, stage: Stage) -> None:
    number, exit_code = signal.SIGTERM, 143
    output = tmp_path / "out"
    with started_generate(source, output, *INLINE, *OPTIONS, stage=stage) as run:
        run.wait_at(stage)
        run.process.send_signal(number)
        stage.open()
        code, text = run.finish()
    assert code == exit_code, text
    last = text.splitlines()[-1]
    assert last.startswith(f"promptmill: stopped by {number.name}; ")
    assert f" of {SHARDS} parts are committed, " in last
    assert " in flight " in last and "lost" in last and last.endswith("; the same command resumes from there")
    assert "Traceback" not in text and "Exception ignored" not in text
    assert events(output, "driver_stop")[-1]["exit_code"] == exit_code
    assert_resumes(source, output, reference)


def test_fault_20_signal_while_it_starts(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with started_generate(source, output, *INLINE, *OPTIONS, stage=Stage(tmp_path / "stage", parts=0)) as run:
        run.wait_for(lambda: (output / "_job" / "drivers").is_dir())  # it is about to load the model
        run.process.send_signal(signal.SIGTERM)
        code, text = run.finish()
    assert code == 143, text
    assert text.splitlines()[-1].startswith("promptmill: stopped by SIGTERM; 0 of 16 parts are committed")
    assert "Traceback" not in text


def test_fault_21_sigkill_to_an_inline_run(source: Path, reference: Path, tmp_path: Path, stage: Stage) -> None:
    output = tmp_path / "out"
    with started_generate(source, output, *INLINE, *OPTIONS, stage=stage) as run:
        run.wait_at(stage)
        run.process.kill()
        assert run.finish()[0] == -signal.SIGKILL
        assert run.left_behind() == []
    assert_resumes(source, output, reference)


@pytest.mark.ray
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_fault_20_a_signal_to_a_run_on_ray(
    number: signal.Signals, source: Path, reference: Path, tmp_path: Path, stage: Stage
) -> None:
    output = tmp_path / "out"
    with started_generate(source, output, *RAY, "cluster.replicas=2", *OPTIONS, stage=stage) as run:
        run.wait_at(stage, 2)
        if number is signal.SIGINT:  # as a terminal sends it: to whatever is in the foreground
            os.killpg(run.process.pid, number)
        else:
            run.process.send_signal(number)
        stage.open()
        code, text = run.finish()
        assert run.left_behind() == []
    assert code == 128 + number, text
    assert text.splitlines()[-1].startswith(f"promptmill: stopped by {number.name}; ")
    assert all(" INFO " in line for line in text.splitlines()[:-1]), f"nothing of Ray's own: {text}"
    (stop,) = events(output, "driver_stop")
    assert stop["exit_code"] == 128 + number
    assert_resumes(source, output, reference)


@pytest.mark.ray
def test_fault_21_sigkill_to_a_run_on_ray(source: Path, reference: Path, tmp_path: Path, stage: Stage) -> None:
    output = tmp_path / "out"
    options = (*RAY, "cluster.replicas=2", *OPTIONS)
    with started_generate(source, output, *options, stage=stage) as run:
        run.wait_at(stage, 2)
        kinds = ("ray::ReplicaActor", "raylet/raylet", "gcs_server")
        assert all(run.family(kind) for kind in kinds), "what must not stay can be seen"
        run.process.kill()
        stage.open()
        # Agents of Ray's own, which hold nothing, may give up on their lost head only a minute later.
        assert run.left_behind(*kinds) == []
    before = parts(output)
    assert 0 < len(before) < SHARDS
    with started_generate(source, output, *RAY, "cluster.replicas=1", *OPTIONS) as run:
        assert run.finish()[0] == 0
        assert run.left_behind() == []
    after = parts(output)
    assert {name: after[name] for name in before} == before
    assert_same_rows(reference, output)


@pytest.mark.ray
def test_fault_22_sigkill_to_a_replica(source: Path, reference: Path, tmp_path: Path, stage: Stage) -> None:
    output = tmp_path / "out"
    with started_generate(source, output, *RAY, "cluster.replicas=2", *OPTIONS, stage=stage) as run:
        replicas = run.wait_at(stage, 2)
        assert set(replicas) == set(run.family("ray::ReplicaActor"))
        os.kill(replicas[0], signal.SIGKILL)
        run.wait_for(lambda: bool(events(output, "replica_down")))  # nobody else can have done its shards before
        stage.open()
        code, text = run.finish()
        assert run.left_behind() == []
    assert code == 0, text
    assert "Traceback" not in text
    (death,) = events(output, "replica_down")
    again = {e["shard"] for e in events(output, "shard_started") if e["attempt"] == 2}
    # Where a replica is slow, another does its last shards, too, which has nothing to do with the death.
    copied = {e["shard"] for e in events(output, "shard_copied")}
    assert again - copied == set(death["shards"]) - copied and again >= set(death["shards"]) != set()
    assert_same_rows(reference, output)
