"""The engine's own tests of its steps, on the device itself, where pytest and hypothesis are installed.

It does not know what they show.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu.bench import Bench

ROOT = Path(__file__).parents[3]
FILES = ("test_gpu_stepper.py", "test_gpu_recording.py", "test_gpu_memory.py")
"""Those that compile few kernels: each shape of head and type is a kernel of its own."""
ON_A_PROCESSOR = "test_gpu_shapes.py"
"""For a trial without a GPU, as the others are interpreted there and take a minute."""


def run(bench: Bench) -> None:
    """Run them in a process of their own."""
    lacking = [name for name in ("pytest", "hypothesis") if find_spec(name) is None]
    if lacking:
        bench.report.row("own tests", "left out", "", f"{' and '.join(lacking)} not installed")
        return
    bench.close_all()
    folder = ROOT / "tests" / "engine" / "gpu"
    files = FILES if bench.device.kind == "cuda" else (ON_A_PROCESSOR,)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(folder / file) for file in files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(1.0, bench.left))
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no output"]
    if done.returncode:
        print("\n".join(lines[-40:]), flush=True)
    bench.report.row("own tests", lines[-1].strip(" ="), good=done.returncode == 0)
