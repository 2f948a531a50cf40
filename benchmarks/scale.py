"""What the driver itself costs, in time and memory, with up to a million shards and a thousand replicas.

It runs the real driver from its plan to the manifest; the engine is made up, and so is the store unless a folder is given.

    python -m benchmarks.scale                                # every size, each in a process of its own, and a table
    python -m benchmarks.scale --shards 100000 --replicas 10  # one size, and a line of JSON
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa

from benchmarks.parts.machine import describe
from benchmarks.parts.virtual import Meter, Metered, Parts, PartStore, VirtualPool
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.errors import DeadlineReached
from pipeline.output.config import OutputConfig
from pipeline.planning.pace import Effort
from pipeline.planning.plan import InputFile, Plan, make_plan
from pipeline.prompts.config import SourceConfig
from pipeline.run import driver
from pipeline.store.base import Store
from pipeline.store.local import LocalStore
from pipeline.types import SamplingParams
from pipeline.work.config import ClusterConfig, GenerateConfig
from pipeline.work.job import Job
from pipeline.work.prepare import Prepared

ROWS_PER_SHARD = 1000
SHARDS = (1_000, 10_000, 100_000, 1_000_000)
REPLICAS = (10, 100, 1_000)


def made_up(plan: Plan, schema: pa.Schema) -> Prepared:
    """In place of what `prepare` finds out about a model and an input; the replicas are made up, too."""
    job = Job(
        plan, pa.schema([]), schema, ModelConfig(), EngineConfig(), SamplingParams(), StatsConfig(),
        SourceConfig(path="made-up"), OutputConfig(path="made-up"),
    )  # fmt: skip
    return Prepared(job, Effort(parameters=1, prompt_tokens=1, new_tokens=1, speed=1e15), weight_bytes=0)


@dataclass(frozen=True)
class Mark:
    """A moment of a run: seconds, processor seconds of the driver, and what the process holds in bytes, now and at most."""

    wall: float
    cpu: float
    memory: int
    peak: int

    @classmethod
    def now(cls, meter: Meter) -> Mark:
        """The present one."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return cls(time.perf_counter(), meter.driver_cpu(), pages * resource.getpagesize(), peak)


ASKED = {
    "recipe": "generate", "sampling": {"n": 1}, "source": {"sampling_column": None}, "output": {"include_prompt": True},
    "stats": {"columns": [], "top_logprobs": 0, "prompt_logprobs": False},
}  # fmt: skip
"""What a plan says of its recipe."""


def plan_of(shards: int, files: int) -> Plan:
    """A plan of a thousand rows a shard, from files of about the same size."""
    rows = shards * ROWS_PER_SHARD
    sizes = [rows // files + (number < rows % files) for number in range(files)]
    inputs = [
        InputFile(f"part-{number:05d}.parquet", f"/input/part-{number:05d}.parquet", 1, size, f"{number:064x}")
        for number, size in enumerate(sizes)
    ]
    return make_plan(inputs, ASKED, rows_per_shard=ROWS_PER_SHARD)


def measure(options: argparse.Namespace, folder: str | None = None) -> dict[str, Any]:
    """Run the driver once, and return what it cost.

    Args:
        options: What the command line says.
        folder: An empty folder for the output; None: a store in memory.
    """
    plan = plan_of(options.shards, options.files)
    parts, meter, marks = Parts(plan), Meter(options.latency_ms / 1000), dict[str, Mark]()
    store: Store = LocalStore(folder) if folder else PartStore(parts, options.committed)
    pool = VirtualPool(
        options.replicas, parts, store, meter, lambda: marks.update(first=Mark.now(meter)), options.stop_after
    )
    config = GenerateConfig(
        output=OutputConfig(path="made-up", rows_per_shard=ROWS_PER_SHARD), cluster=ClusterConfig(name="local")
    )
    finish = driver._Run._finish

    def finishing(run: Any) -> Any:
        marks["last"] = Mark.now(meter)
        return finish(run)

    with contextlib.ExitStack() as stack:
        for owner, name, other in (
            (driver, "prepare", lambda *_: made_up(plan, parts.schema)), (driver, "_pool", lambda *_: pool),
            (driver, "open_store", lambda *_, **__: Metered(store, meter)), (driver._Run, "_finish", finishing),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(owner, name, other))
        marks["start"] = Mark.now(meter)
        with contextlib.suppress(DeadlineReached):
            driver.run_job(config, config_yaml="made: up\n")
    marks["end"] = Mark.now(meter)
    return _figures(options, meter, marks, pool.made, store)


def _figures(
    options: argparse.Namespace, meter: Meter, marks: dict[str, Mark], made: int, store: Store
) -> dict[str, Any]:
    start, first, end = marks["start"], marks["first"], marks["end"]
    last = marks.get("last", end)
    each = 1e3 / made if made else math.nan
    calls = {kind: number for kind, number in sorted(meter.calls.items()) if number > 1}
    return {
        "shards": options.shards, "replicas": options.replicas, "files": options.files, "committed": options.committed,
        "made": made,
        "seconds": round(end.wall - start.wall, 3),
        "first_task_seconds": round(first.wall - start.wall, 3),
        "first_task_cpu_seconds": round(first.cpu - start.cpu, 3),
        "driver_ms_a_shard": _rounded(each * (end.cpu - start.cpu)),
        "dispatch_ms_a_shard": _rounded(each * (last.cpu - first.cpu)),
        "finish_seconds": round(end.wall - last.wall, 3),
        "finish_cpu_ms_a_shard": round(1e3 * (end.cpu - last.cpu) / options.shards, 4),
        "shards_a_second": round(made / (last.wall - first.wall), 1),
        "made_up_ms_a_shard": _rounded(each * meter.cpu),
        "start_mb": round(start.memory / 1e6), "dispatch_peak_mb": round(last.peak / 1e6),
        "peak_mb": round(end.peak / 1e6),
        "bytes_a_shard": round((end.peak - start.memory) / options.shards),
        "calls": calls, "call_ms": {kind: round(1e3 * meter.wall[kind] / number, 3) for kind, number in calls.items()},
        "files_mb": {
            kind: round(sum(file.size for file in store.list(prefix)) / 1e6, 2)
            for kind, prefix in (("events", "_job/events/"), ("manifest", "_job/manifest"), ("plan", "_job/plan"))
        },
    }  # fmt: skip


def _rounded(value: float) -> float | None:
    """Four places; None for what has no value, since no shard was made."""
    return None if math.isnan(value) else round(value, 4)


def main() -> None:
    """Measure one size, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int)
    parser.add_argument("--replicas", type=int, default=100)
    parser.add_argument("--files", type=int, default=1_000, help="input files")
    parser.add_argument("--committed", type=int, default=0, help="shards that are there at the start")
    parser.add_argument("--stop-after", type=int, help="stop when so many tasks are finished")
    parser.add_argument(
        "--latency-ms", type=float, default=0.0, help="what each of the driver's store calls takes more"
    )
    parser.add_argument("--folder", help="commit real files, in a folder of its own below this one")
    options = parser.parse_args()
    if options.shards is None:
        print(json.dumps(describe()))
        print(table(list(_all())))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) if options.folder else contextlib.nullcontext() as folder:
        print(json.dumps(measure(options, folder)))


def _all() -> Iterator[dict[str, Any]]:
    """Every size in a process of its own, since the memory that a process held at most never falls."""
    for shards, replicas in itertools.product(SHARDS, REPLICAS):
        yield _alone("--shards", shards, "--replicas", replicas)
    for shards in SHARDS:
        yield _alone("--shards", shards, "--replicas", 100, "--committed", shards // 2, "--stop-after", 0)


def _alone(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.scale", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, env=os.environ)
    line: dict[str, Any] = json.loads(done.stdout)
    print(json.dumps(line), file=sys.stderr, flush=True)
    return line


def table(lines: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    columns = (
        "shards", "replicas", "committed", "first_task_seconds", "dispatch_ms_a_shard", "finish_cpu_ms_a_shard",
        "driver_ms_a_shard", "made_up_ms_a_shard", "seconds", "peak_mb", "bytes_a_shard",
    )  # fmt: skip
    rows = [["" if line[column] is None else f"{line[column]:,}" for column in columns] for line in lines]
    heads = [column.replace("_", " ") for column in columns]
    return "\n".join("| " + " | ".join(row) + " |" for row in [heads, ["--:"] * len(columns), *rows])


if __name__ == "__main__":
    main()
