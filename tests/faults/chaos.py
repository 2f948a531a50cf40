"""Kills at random moments, again and again, until the job gets through; then compares with a run that nobody disturbed.

    python -m tests.faults.chaos [RUNS] [SEED]

Drivers (one or two at a time), replicas and raylets are ended by SIGKILL. After each run the output must hold the same rows
to the last bit, `verify` must find nothing, no part that was seen committed may have changed, and no process, temporary
file or folder of Ray may be left.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from jobs.verify import main as verify
from tests.small_runs import (
    INLINE,
    RAY,
    Started,
    assert_same_rows,
    generate,
    parts,
    prompts,
    started_generate,
    wait_until,
    write,
)

ROWS = 96
OPTIONS = (
    "source.id_column=id", "output.rows_per_shard=8", "sampling.max_tokens=80", "sampling.ignore_eos=true",
    "stats.top_logprobs=2", "engine.max_num_seqs=4",
)  # fmt: skip
"""Some five seconds of work after five of loading, so that most kills hit something."""
STARTS = 40
"""Starts after which a run that is still not through has come to a stand."""


def main() -> None:
    """Run, and say what was killed and that all is well; or raise."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    killed: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="promptmill-chaos-") as folder:
        source = write(prompts(ROWS), Path(folder, "prompts.parquet"))
        reference = Path(folder, "reference")
        assert generate(source, reference, *OPTIONS) == 0
        for number in range(runs):
            rng = random.Random(f"{seed}:{number}")
            output = Path(folder, f"run-{number}")
            starts = disturbed(source, output, rng, killed)
            check(reference, output)
            print(f"run {number}: through at start {starts}; so far killed: {dict(killed)}", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"{runs} runs, {sum(killed.values())} kills ({dict(killed)}), {minutes:.0f} min: "
          "nothing missing, nothing twice, every bit the same, nothing left behind")  # fmt: skip


def disturbed(source: Path, output: Path, rng: random.Random, killed: Counter[str]) -> int:
    """Start, kill, start again, until it is through; return how many starts that took."""
    seen: dict[str, tuple[int, int, bytes]] = {}
    for start in range(1, STARTS + 1):
        on_ray = rng.random() < 0.3
        how = (*RAY, f"cluster.replicas={rng.choice([1, 2])}") if on_ray else INLINE
        with contextlib.ExitStack() as stack:
            drivers = [
                stack.enter_context(started_generate(source, output, *how, *OPTIONS))
                for _ in range(rng.choice([1, 1, 2]))
            ]
            if start < STARTS // 2:  # then it is let through
                time.sleep(rng.uniform(1, 13) if on_ray else rng.uniform(1, 7))
                kill(rng.choice(drivers), rng, killed)
            codes = [run.finish()[0] for run in drivers]
            left = [line for run in drivers for line in run.left_behind()]
            assert left == [], f"processes are left: {left}"
        now = parts(output) if output.exists() else {}
        assert {name: now.get(name) for name in seen} == seen, "a committed part has changed"
        seen = now
        assert all(code in (0, -signal.SIGKILL, 75, 1) for code in codes), codes
        if 0 in codes:
            return start
    raise AssertionError(f"not through after {STARTS} starts")


def kill(run: Started, rng: random.Random, killed: Counter[str]) -> None:
    """End one process of a run, if it is still there."""
    name = rng.choice(
        ["", "ray::ReplicaActor", "ray::ReplicaActor", "raylet/raylet"] if run.family("raylet/raylet") else [""]
    )
    victims = run.family(name) if name else [run.process.pid] * (run.process.poll() is None)
    if victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(victims), signal.SIGKILL)
            killed[name.rpartition("/")[2] or "driver"] += 1


def check(reference: Path, output: Path) -> None:
    """Compare an output with the undisturbed one, and look for what may have been left."""
    assert_same_rows(reference, output)
    assert verify([f"output.path={output}"]) == 0
    temporaries = list((output / "_job" / "tmp").iterdir()) if (output / "_job" / "tmp").exists() else []
    assert temporaries == [], temporaries
    assert wait_until(lambda: not list(Path(tempfile.gettempdir()).glob("promptmill-ray-*"))), "a folder of Ray is left"


if __name__ == "__main__":
    main()
