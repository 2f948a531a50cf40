"""Measures promptmill on a GPU and prints one Markdown table; `benchmarks/gpu.sh` starts it.

    python -m benchmarks.gpu [--budget SECONDS] [--device cpu --tiny] [--only PART …]

The parts run in a process of their own, in order of importance. If it dies or hangs, a new one goes on with the next part. Exit
status 1: a part failed, or a result is not good; 2: there is no GPU, and nothing was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.limits import LIMITS, NO_DEVICE
from benchmarks.gpu.report import Reporter, ends, failures, read, table

LOADING = 300
"""Seconds in which a process must have come to its first part."""
GRACE = 20
"""Seconds after its limit at which a part that does not listen is killed with its process."""


def options() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="benchmarks/gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--budget", type=float, default=540, help="seconds after which what is left is left out; default: 540"
    )
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--tiny", action="store_true", help="tiny models: to see that every part runs, not how fast")
    made.add_argument("--only", nargs="+", choices=LIMITS, default=list(LIMITS), metavar="PART", help=", ".join(LIMITS))
    return made


def supervise(command: Sequence[str], events: Path, names: Sequence[str], deadline: float) -> None:
    """Run `command` with the names of parts until each has ended, in a new process where one died."""
    left = list(names)
    while left:
        before = len(left)
        with subprocess.Popen([*command, *left]) as process:
            status = _wait(process, events, deadline)
        if status == NO_DEVICE and not read(events):
            raise SystemExit(NO_DEVICE)  # the process has said so; there is nothing to write down
        over = ends(read(events))
        dead = [name for name in left if over.get(name) == "did not end"]
        if not any(name in over for name in left):
            dead = left  # it did not come as far as the first: no other process would
        for name in dead:
            Reporter(events, name).event("died", why=_ending(status))
            print(f"{name}: died, {_ending(status)}", flush=True)
        left = [name for name in left if name not in over and name not in dead]
        assert len(left) < before


def _wait(process: subprocess.Popen[bytes], events: Path, deadline: float) -> int:
    """Wait for the end; kill it when a part is far beyond its limit."""
    begun = time.time()
    while True:
        try:
            return process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            pass
        seen = [event for event in read(events) if event["event"] == "start"]
        running = seen[-1] if seen and seen[-1]["time"] >= begun else None
        limit = min(LIMITS[running["part"]], deadline - running["time"]) if running else LOADING
        if time.time() > (running["time"] if running else begun) + max(limit, 1) + GRACE:
            process.kill()


def _ending(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def main() -> None:
    """Run, write the file, print the table."""
    arguments = options().parse_args()
    out = Path(os.environ["OUT"]) / "gpu_results.json" if os.environ.get("OUT") else Path("gpu_results.json")
    start = time.time()
    deadline = start + arguments.budget
    with tempfile.TemporaryDirectory() as folder:
        events = Path(folder) / "events"
        command = [
            sys.executable, "-m", "benchmarks.gpu.worker", str(events), folder, str(deadline), arguments.device,
            "tiny" if arguments.tiny else "full",
        ]  # fmt: skip
        try:
            supervise(command, events, [name for name in LIMITS if name in arguments.only], deadline)
        finally:
            if found := read(events):
                out.write_text(json.dumps({"seconds": time.time() - start, "events": found}, indent=1))
    bad = failures(found)
    print(f"\n{time.time() - start:.0f} s; all events are in {out}", flush=True)
    print(f"not good: {', '.join(bad) or 'nothing'}\n\n{table(found)}", flush=True)
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
