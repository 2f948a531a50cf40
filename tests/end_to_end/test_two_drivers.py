"""Fault 27: two commands on one output share its work, and make one right output."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.small_runs import (
    INLINE,
    Stage,
    assert_same_rows,
    events,
    generate,
    manifest,
    started_generate,
)

OPTIONS = (
    "source.id_column=id", "source.sampling_column=how", "output.rows_per_shard=10", "sampling.max_tokens=24",
)  # fmt: skip
ROWS, SHARDS = 160, 16


def done_by(output: Path) -> list[set[int]]:
    """The shards that each driver committed."""
    made = []
    for file in sorted((output / "_job" / "events").iterdir()):
        lines = [line for line in file.read_text().splitlines() if '"shard_committed"' in line and "true" not in line]
        made.append({int(line.partition('"shard": ')[2].partition(",")[0]) for line in lines})
    return made


def test_fault_27_they_share_the_work(source: Path, reference: Path, tmp_path: Path) -> None:
    output, stage = tmp_path / "out", Stage(tmp_path / "stage", parts=3)
    with (
        started_generate(source, output, *INLINE, *OPTIONS, stage=stage) as one,
        started_generate(source, output, *INLINE, *OPTIONS, stage=stage) as two,
    ):
        one.wait_at(stage, 2)  # whichever is quicker leaves some to the other
        stage.open()
        ends = [one.finish(), two.finish()]
    assert [code for code, _ in ends] == [0, 0], ends
    first, second = done_by(output)
    assert first | second == set(range(SHARDS))
    assert not first & second, "no shard was done twice"
    assert min(len(first), len(second)) >= 3, "neither did next to nothing"
    assert_same_rows(reference, output)
    assert manifest(output)["totals"] == manifest(reference)["totals"]
    assert not list((output / "_job" / "claims").iterdir()) and not list((output / "_job" / "drivers").iterdir())


@pytest.mark.slow  # the simulation and `make chaos` have it too
def test_one_that_is_killed_is_taken_over_by_the_other(source: Path, reference: Path, tmp_path: Path) -> None:
    output, stage = tmp_path / "out", Stage(tmp_path / "stage")
    with (
        started_generate(source, output, *INLINE, *OPTIONS, stage=stage) as one,
        started_generate(source, output, *INLINE, *OPTIONS, stage=stage) as two,
    ):
        one.wait_at(stage, 2)
        os.kill(one.process.pid, signal.SIGKILL)
        stage.open()
        code, text = two.finish()
        one.finish()
    assert code == 0, text
    assert_same_rows(reference, output)
    assert len(events(output, "driver_start")) >= 2


def test_fault_28_another_plan_is_refused_while_one_is_at_work(source: Path, tmp_path: Path) -> None:
    output, stage = tmp_path / "out", Stage(tmp_path / "stage")
    with started_generate(source, output, *INLINE, *OPTIONS, stage=stage) as one:
        one.wait_at(stage)
        assert generate(source, output, *OPTIONS, "sampling.seed=9") == 2
        stage.open()
        assert one.finish()[0] == 0
