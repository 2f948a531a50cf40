"""Kills at random moments, again and again, until the job gets through; then compares with a run that nobody disturbed.

    python -m tests.faults.chaos [RUNS] [SEED] [KIND …]

The runs take turns: one that generates, and three that score long texts in windows, pairs, and endings; or those KINDs alone.
Drivers (one or two at a time), replicas and raylets are ended by SIGKILL. After each run the output must hold the same rows to
the last bit, `verify` must find nothing, no part that was seen committed may have changed, and no process, temporary file or
folder of Ray may be left.
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

import pyarrow as pa

from jobs.verify import main as verify
from tests.small_runs import (
    INLINE,
    MODEL,
    OPENINGS,
    RAY,
    Started,
    assert_same_rows,
    parts,
    prompts,
    started,
    started_generate,
    wait_until,
    write,
)

ROWS = 96
SHARED = ("source.id_column=id", "output.rows_per_shard=8", "stats.top_logprobs=2", "engine.max_num_seqs=4")
KINDS = {
    "generate": ("sampling.max_tokens=80", "sampling.ignore_eos=true"),
    "texts": ("score.stride=9", "engine.max_model_len=128"),
    "pairs": ("source.completion_column=rest",),
    "endings": ("source.endings_column=endings", "source.answer_column=answer", "score.unconditional=true"),
}
"""Kind of run → its options. Some seconds of work after five of loading, so that most kills hit something."""
STARTS = 40
"""Starts after which a run that is still not through has come to a stand."""


def main() -> None:
    """Run, and say what was killed and that all is well; or raise."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    kinds = sys.argv[3:] or [*KINDS]
    killed: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="promptmill-chaos-") as folder:
        source = write(rows(), Path(folder, "rows.parquet"))
        for number in range(runs):
            rng = random.Random(f"{seed}:{number}")
            kind = kinds[number % len(kinds)]
            reference, output = Path(folder, f"reference-{kind}"), Path(folder, f"run-{number}")
            if not reference.exists():
                with start(kind, source, reference, *INLINE) as run:
                    assert run.finish()[0] == 0
            starts = disturbed(kind, source, output, rng, killed)
            check(reference, output)
            print(f"run {number}, {kind}: through at start {starts}; so far killed: {dict(killed)}", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"{runs} runs, {sum(killed.values())} kills ({dict(killed)}), {minutes:.0f} min: "
          "nothing missing, nothing twice, every bit the same, nothing left behind")  # fmt: skip


def rows() -> pa.Table:
    """Prompts, some null, of up to some thousand tokens, each with a completion, four endings and the right one of them."""
    table = prompts(ROWS)
    texts = [text and text * (1 + 5 * (i % 9)) for i, text in enumerate(table.column("prompt").to_pylist())]
    rest = [f" and {OPENINGS[i % 7]}" * (i % 40) for i in range(ROWS)]
    return pa.table({
        "id": table.column("id"), "prompt": texts, "rest": rest, "answer": [str(i % 4) for i in range(ROWS)],
        "endings": [[f" {word}" for word in OPENINGS[i % 4 : i % 4 + 4]] for i in range(ROWS)],
    })  # fmt: skip


def start(kind: str, source: Path, output: Path, *how: str) -> contextlib.AbstractContextManager[Started]:
    """Start a run of that kind in its own session."""
    options = (*SHARED, *KINDS[kind], *how)
    if kind == "generate":
        return started_generate(source, output, *options)
    words = (f"model.path={MODEL}", f"source.path={source}", f"output.path={output}", "output.report=false", *options)
    return started(["-m", "jobs.score", *words], output)


def disturbed(kind: str, source: Path, output: Path, rng: random.Random, killed: Counter[str]) -> int:
    """Start, kill, start again, until it is through; return how many starts that took."""
    seen: dict[str, tuple[int, int, bytes]] = {}
    for number in range(1, STARTS + 1):
        on_ray = rng.random() < 0.3
        how = (*RAY, f"cluster.replicas={rng.choice([1, 2])}") if on_ray else INLINE
        with contextlib.ExitStack() as stack:
            drivers = [stack.enter_context(start(kind, source, output, *how)) for _ in range(rng.choice([1, 1, 2]))]
            if number < STARTS // 2:  # then it is let through
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
            return number
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
