from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.importing import write

ROOT = Path(__file__).parents[2]


def test_the_file_is_the_same_every_time_and_as_long_as_it_should_be(tmp_path: Path) -> None:
    assert write(tmp_path / "a", 100_000) == write(tmp_path / "b", 100_000)
    data = (tmp_path / "a").read_bytes()
    assert data == (tmp_path / "b").read_bytes() and 100_000 <= len(data) < 110_000
    assert all(json.loads(line)["messages"] for line in data.splitlines())


def test_a_small_one_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.importing", "1", str(tmp_path)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT
    )
    figures = json.loads(done.stdout)
    assert 1 <= figures["megabytes"] < 1.1 and "out.parquet: " in figures["told"]
    assert figures["peak_megabytes"] > 10
    assert list(tmp_path.iterdir()) == []
