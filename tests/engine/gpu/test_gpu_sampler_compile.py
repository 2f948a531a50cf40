"""The sampler's kernels compile for two kinds of GPU, need no more registers than there are, and read four logits at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import triton

SCRIPT = Path(__file__).parent / "compile_kernels.py"


@pytest.mark.slow
def test_every_kernel_compiles_and_spills_nothing(tmp_path: Path) -> None:
    """In a process that does not interpret them."""
    if not Path(triton.knobs.nvidia.cuobjdump.path).exists():
        pytest.skip("this Triton has no compiler for NVIDIA's GPUs")
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    environment = {**kept, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": paths}
    command = [sys.executable, str(SCRIPT), "90", "80"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {f["capability"] for f in found} == {80, 90}
    assert [f for f in found if f["spilled"]] == []
    readers = ("weigh_tiles", "measure_tiles", "best_of_tiles", "find_thresholds")
    assert {f["kernel"] for f in found if f["constants"].get("UNIT") == 4 and f["fours"]} >= {*readers}
    # two programs that look for a threshold, of 512 threads, share a multiprocessor's 65,536 registers
    assert max(f["registers"] for f in found if f["kernel"] == "find_thresholds") <= 64
