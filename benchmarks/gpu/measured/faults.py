"""Faults on purpose, each in a process of its own, and what became of the requests: see `fault`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.bench import DEMO, Bench

ROOT = Path(__file__).parents[3]
EXPECTED = {
    "none": "", "recording that fails": "cannot be recorded", "memory that another program takes": "out of memory: going on",
    "illegal access": "DeviceFault", "no C compiler": "are not used, and torch does their work",
}  # fmt: skip
"""Fault → a part of what must be said of it on a GPU. All but the illegal access must give the tokens of `none`, but for
rounding where another kernel does the work."""


def run(bench: Bench) -> None:
    """Cause each, and compare the completions with those of an undisturbed run."""
    bench.close_all()
    undisturbed: object = None
    for name, wanted in EXPECTED.items():
        found = _caused(name, bench.device.kind)
        undisturbed = found["tokens"] if name == "none" else undisturbed
        said = " | ".join(found["said"]) or "nothing was said"
        same = found["tokens"] == undisturbed
        on_gpu = bench.device.kind == "cuda"
        good = (wanted in said or not on_gpu) and (same or name in ("illegal access", "no C compiler"))
        bench.report.row(name, "same tokens" if same else "other tokens, or none", "", said[:200], good)


def _caused(name: str, kind: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": cache}
        if name == "no C compiler":
            environment |= {"CC": "/nonexistent/cc"}
        command = [sys.executable, "-m", "benchmarks.gpu.measured.fault", name, str(DEMO), kind]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=90
        )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        told = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {"tokens": None, "said": [told]}
    return dict(json.loads(lines[-1]))
