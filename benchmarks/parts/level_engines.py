"""Measures the whole engine with the compiled kernels of a level, and with torch's operations in their place.

Every run is a process of its own (`benchmarks.ours`), as torch and oneDNN read their caps when they are loaded, and the two
kinds take turns. It does not know which caps belong to a level; see `levels`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PRECISIONS: dict[str, tuple[str, ...]] = {
    "float32": ("--dtype", "float32"), "int8": ("--int8",), "bfloat16": ("--dtype", "bfloat16"),
}  # fmt: skip
"""Precision → the options of `ours`."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine is given to do.

    Attributes:
        model: The model's folder.
        requests: Requests of `workload`, all at once.
        threads: Threads of the engine.
        workload: One of `benchmarks.parts.workload`.
    """

    model: Path
    requests: int = 8
    threads: int = 1
    workload: str = "uniform"


@dataclass(frozen=True, slots=True)
class Pair:
    """Generated tokens per second, the median of the runs, and the linear kernels that there were.

    Attributes:
        precision: One of PRECISIONS.
        compiled: With the compiled kernels.
        plain: With torch's operations.
        kernels: The linear kernels of either.
    """

    precision: str
    compiled: float
    plain: float
    kernels: tuple[str, str]


def measured(level: str, caps: Mapping[str, str], load: Load, rounds: int) -> list[Pair]:
    """Run the engine at a level and without compiled kernels, in turn, in every precision.

    Args:
        level: The level, without `native-`.
        caps: What keeps torch and oneDNN to it.
        load: What is run.
        rounds: How often.

    Raises:
        SystemExit: If a run fails, or computed with other kernels than were asked for.
    """
    found = []
    for precision in PRECISIONS:
        runs: dict[str, list[dict[str, Any]]] = {f"native-{level}": [], "none": []}
        for _ in range(rounds):
            for kernels, some in runs.items():
                some.append(_run(kernels, precision, caps, load))
        compiled, plain = (statistics.median(run["tok_s"] for run in some) for some in runs.values())
        ours, theirs = (", ".join(some[0]["facts"]["linear_kernels"]) for some in runs.values())
        found.append(Pair(precision, compiled, plain, (ours, theirs)))
    return found


def _run(kernels: str, precision: str, caps: Mapping[str, str], load: Load) -> dict[str, Any]:
    """The figures of one run in a process of its own."""
    words = [str(load.model), load.workload, str(load.requests), str(load.requests), "--kernels", kernels]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ours", *words, *PRECISIONS[precision]], cwd=ROOT, text=True,
        env={**os.environ, **caps, "OMP_NUM_THREADS": str(load.threads)}, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SystemExit(f"engine.kernels={kernels} in {precision}: {reason}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if figures["facts"]["compiled"] != kernels.removeprefix("native-"):
        raise SystemExit(f"engine.kernels={kernels}: the engine computed with {figures['facts']['compiled']}")
    return figures


def table(level: str, load: Load, pairs: list[Pair]) -> str:
    """What was found, in Markdown; a ratio below one is marked: something compiled is slower than what it replaces."""
    lines = [
        f"\n### {level}, the whole engine: {load.model.name}, {load.workload}, {load.requests} sequences\n",
        "| precision | compiled, tok/s | torch's operations, tok/s | ratio | products: compiled / torch's |",
        "|---|---:|---:|---:|---|",
    ]
    for pair in pairs:
        rates = f"{pair.compiled:.1f} | {pair.plain:.1f} | {ratio(pair.compiled / pair.plain)}"
        lines.append(f"| {pair.precision} | {rates} | {' / '.join(pair.kernels)} |")
    return "\n".join(lines)


def ratio(found: float) -> str:
    """A ratio, marked where it is below one."""
    return f"{found:.2f}" if found >= 1 else f"**{found:.2f}**"
