"""Faults 9, 10 and 23: rows that end or hang their replica are found; a replica that is lost otherwise is no row's fault."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.verify import main as verify
from tests.small_runs import (
    INLINE,
    RAY,
    Stage,
    assert_same_rows,
    events,
    generate,
    manifest,
    read,
    started_generate,
    write,
)

OPTIONS = ("source.id_column=id", "output.rows_per_shard=3")
ROWS = 9


def prompts(**deadly: int) -> pa.Table:
    texts = [f"Once there was a bear called number {i}." for i in range(ROWS)]
    for kind, row in deadly.items():
        texts[row] = f"{kind} {texts[row]}"
    return pa.table({"id": [f"row-{i:02d}" for i in range(ROWS)], "prompt": texts})


@pytest.fixture
def deadly(tmp_path: Path) -> Stage:
    """What makes rows deadly."""
    return Stage(tmp_path / "stage", parts=None)


def assert_only(output: Path, source: Path, blamed: dict[str, str], tmp_path: Path) -> None:
    """Assert that only these rows are errors, that all others have their bytes, and that `verify` has nothing to say."""
    table = read(output)
    codes = dict(zip(table.column("row_id").to_pylist(), table.column("error_code").to_pylist(), strict=True))
    assert {row: code for row, code in codes.items() if code} == blamed
    undisturbed = tmp_path / "undisturbed"
    assert generate(source, undisturbed, *OPTIONS) == 0
    expected, keep = read(undisturbed), [row not in blamed for row in table.column("row_id").to_pylist()]
    assert table.filter(keep).drop_columns("finish_reason").equals(expected.filter(keep).drop_columns("finish_reason"))
    assert verify([f"output.path={output}", "replay=100"]) == 0, "it does not generate deadly rows again"
    assert manifest(output)["totals"]["errors"] == {code: list(blamed.values()).count(code) for code in blamed.values()}


@pytest.mark.ray
def test_fault_9_a_row_that_kills_its_replica(tmp_path: Path, deadly: Stage) -> None:
    source, output = write(prompts(CRASH=5), tmp_path / "in.parquet"), tmp_path / "out"
    with started_generate(source, output, *RAY, "cluster.replicas=1", *OPTIONS, stage=deadly) as run:
        code, text = run.finish()
        assert run.left_behind() == []
    assert code == 0, text
    (blame,) = events(output, "row_blamed")
    assert (blame["shard"], blame["row"], blame["code"]) == (1, 2, "WORKER_CRASH")
    assert_only(output, source, {"row-05": "WORKER_CRASH"}, tmp_path)


@pytest.mark.ray
def test_fault_10_a_row_that_hangs_its_replica(tmp_path: Path, deadly: Stage) -> None:
    source, output = write(prompts(HANG=0).slice(0, 2), tmp_path / "in.parquet"), tmp_path / "out"
    options = (*RAY, "cluster.replicas=1", "cluster.hang_timeout=2", *OPTIONS, "output.rows_per_shard=1")
    with started_generate(source, output, *options, stage=deadly) as run:
        code, text = run.finish()
        assert run.left_behind() == []
    assert code == 0, text
    assert all(event["reason"] == "no progress for 2 s" for event in events(output, "replica_down"))
    assert_only(output, source, {"row-00": "TIMEOUT"}, tmp_path)


@pytest.mark.ray
def test_fault_41_an_exception_and_a_lost_device_cost_their_replicas(tmp_path: Path, deadly: Stage) -> None:
    """The first replica's engine raises whatever it is given, the second's device is lost, and the third is sound."""
    source, output = write(prompts(BROKEN=1).slice(0, 6), tmp_path / "in.parquet"), tmp_path / "out"
    with started_generate(source, output, *RAY, "cluster.replicas=1", *OPTIONS, stage=deadly) as run:
        code, text = run.finish()
        assert run.left_behind() == []
    assert code == 0, text
    downs = events(output, "replica_down")
    assert ["an exception" in downs[0]["reason"], "no longer works" in downs[1]["reason"]] == [True, True]
    assert [down["counts"] for down in downs] == [True, True]
    assert_only(output, source, {}, tmp_path)


@pytest.mark.slow
def test_fault_10_inline_it_stops_and_sets_the_shard_apart(tmp_path: Path, deadly: Stage) -> None:
    source, output = write(prompts(HANG=0), tmp_path / "in.parquet"), tmp_path / "out"
    with started_generate(source, output, *INLINE, *OPTIONS, "cluster.hang_timeout=1", stage=deadly) as run:
        code, text = run.finish()
    assert code == 75, text
    assert "a row hangs the model, and cluster=inline cannot stop it" in text.splitlines()[-1]
    assert (output / "_job" / "suspects" / "00000").exists()
    assert not list((output / "_job" / "claims").iterdir())


@pytest.mark.slow
def test_fault_9_inline_a_death_is_found_from_start_to_start(tmp_path: Path, deadly: Stage) -> None:
    """Nobody is left to see it: only that it happens each time with the same rows in flight tells."""
    source, output = write(prompts(CRASH=5), tmp_path / "in.parquet"), tmp_path / "out"
    for _ in range(40):
        with started_generate(source, output, *INLINE, *OPTIONS, stage=deadly) as run:
            code, text = run.finish()
        if code == 0:
            break
        assert code == -signal.SIGKILL, text
    assert_only(output, source, {"row-05": "WORKER_CRASH"}, tmp_path)


@pytest.mark.slow  # tests/run/shared/test_suspects.py and the simulation have what it rests on
@pytest.mark.ray
def test_a_replica_that_is_killed_twice_is_no_rows_fault(tmp_path: Path) -> None:
    source, output = write(prompts(), tmp_path / "in.parquet"), tmp_path / "out"
    stage = Stage(tmp_path / "stage", parts=0)
    options = (*RAY, "cluster.replicas=1", *OPTIONS, "engine.max_num_seqs=1", "sampling.max_tokens=64")
    with started_generate(source, output, *options, stage=stage) as run:
        for killed in (1, 2):
            os.kill(run.wait_at(stage, killed)[-1], signal.SIGKILL)
            run.wait_for(lambda killed=killed: len(events(output, "replica_down")) == killed)  # type: ignore[misc]
        stage.open()
        code, text = run.finish()
    assert code == 0, text
    assert [down["counts"] for down in events(output, "replica_down")] == [True, True]
    assert events(output, "row_blamed") == []
    reference = tmp_path / "reference"
    assert generate(source, reference, *OPTIONS, "sampling.max_tokens=64") == 0
    assert_same_rows(reference, output)
