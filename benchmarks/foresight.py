"""Holds what `plan` predicts against what `generate` then takes, for three jobs unlike each other, and prints a table.

    python -m benchmarks.foresight MODEL ... [--cluster inline|local] [--rounds 1] [--jobs short long samples]

`short` has many short prompts and short completions, `long` few of both that are long, `samples` eight completions of each
prompt after a shared instruction. End tokens are ignored, so that completions are as long as the plan says. The prompts are the
words of this folder's pages in an order that a seed decides. Time is `wall_seconds` of the manifest, memory the peak of the
resident set of the replica's process (with cluster=inline, of the whole command), read from the system every 50 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.parts.machine import describe

WORDS = " ".join(p.read_text() for p in sorted(Path(__file__).parent.glob("*.md"))).split()
SHARED = 60
"""Words of the instruction that the prompts of `samples` begin with."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A job: its rows, the fewest and most words of a prompt, its options, and the words that all prompts begin with."""

    rows: int
    fewest: int
    most: int
    options: tuple[str, ...]
    shared: int = 0


KINDS = {
    "short": Kind(600, 3, 12, ("sampling.max_tokens=16",)),
    "long": Kind(8, 60, 160, ("sampling.max_tokens=320",)),
    "samples": Kind(16, 30, 50, ("sampling.max_tokens=40", "sampling.n=8"), SHARED),
}
TINY_BYTES, TINY_TIMES, TINY_WORDS = 50_000_000, 8, 4
"""Weights up to which a model is quick; it gets so many times the rows, and prompts of so many times fewer words."""
MEBIBYTE = 2**20


def write_prompts(kind: Kind, times: int, path: Path) -> None:
    """Write the prompts of a job."""
    draw, fewer = random.Random(0), TINY_WORDS if times > 1 else 1
    shared = [draw.choice(WORDS) for _ in range(kind.shared // fewer)]
    lengths = [max(1, draw.randint(kind.fewest, kind.most) // fewer) for _ in range(kind.rows * times)]
    texts = [" ".join([*shared, *(draw.choice(WORDS) for _ in range(n))]) for n in lengths]
    pq.write_table(pa.table({"prompt": texts}), path)


def command(job: str, *options: str) -> list[str]:
    """Return a command of this installation."""
    return [sys.executable, "-m", "jobs", job, *options]


def plan(options: list[str]) -> dict[str, Any]:
    """Return what `plan` predicts."""
    done = subprocess.run(command("plan", *options, "json=true"), check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def generate(options: list[str], output: Path, mark: str) -> tuple[dict[str, Any], int]:
    """Run a job; return (its manifest, peak memory of a replica in bytes)."""
    process = subprocess.Popen(command("generate", *options), env=os.environ | {"PROMPTMILL_FORESIGHT": mark})
    peak = 0
    while process.poll() is None:
        peak = max([peak, *(_peak(pid) for pid in _replicas(process.pid, mark))])
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"generate ended with exit code {process.returncode}")
    body: dict[str, Any] = json.loads((output / "_job" / "manifest.json").read_text())
    return body, peak


def _replicas(own: int, mark: str) -> list[int]:
    """Return the processes of Ray's replicas that a run has started, or the run itself if it has none."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and "ReplicaActor" in _text(folder / "cmdline"):
            found += [int(folder.name)] if mark in _text(folder / "environ") else []
    return found or [own]


def _peak(pid: int) -> int:
    lines = _text(Path(f"/proc/{pid}/status")).splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


def row(model: str, name: str, predicted: dict[str, Any], body: dict[str, Any], peak: int) -> str:
    """Return a line of the table."""
    asked, timings, totals = predicted["prediction"], body["timings"], body["totals"]
    seconds, memory = asked["seconds"], asked["memory_bytes"]
    cells = [
        model, name, f"{totals['completion_tokens']:,}", f"{asked['completion_tokens']:,}",
        f"{timings['wall_seconds']:.1f}", f"{seconds:.1f}", f"{seconds / timings['wall_seconds'] - 1:+.0%}",
        f"{peak / MEBIBYTE:,.0f}", f"{memory / MEBIBYTE:,.0f}", f"{memory / peak - 1:+.0%}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| model | job | tokens | predicted | seconds | predicted | off by | MiB | predicted | off by |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def main() -> None:
    """Plan, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--cluster", choices=("inline", "local"), default="inline")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--jobs", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument(
        "--options", nargs="*", default=[], help="overrides for both commands, such as model.dtype=bfloat16"
    )
    arguments = parser.parse_args()
    print(json.dumps(describe()), HEAD, sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for model in map(Path, arguments.models):
            small = sum(p.stat().st_size for p in model.glob("*.safetensors")) < TINY_BYTES
            for name in arguments.jobs:
                write_prompts(KINDS[name], TINY_TIMES if small else 1, folder / "in.parquet")
                for number in range(arguments.rounds):
                    output = folder / f"{model.name}-{name}-{number}"
                    options = [
                        f"model.path={model}", f"source.path={folder / 'in.parquet'}", f"output.path={output}",
                        f"cluster={arguments.cluster}", "sampling.ignore_eos=true",
                        "source.on_long_prompt=truncate_left", *KINDS[name].options,
                        *arguments.options,
                    ]  # fmt: skip
                    predicted = plan(options)
                    body, peak = generate(options, output, f"{output}")
                    print(row(model.name, name, predicted, body, peak), flush=True)


if __name__ == "__main__":
    main()
