"""A whole job through `Worker`: Parquet in, engine, Parquet out, in one process, whose threads share one GIL."""

from __future__ import annotations

import time
from importlib.util import find_spec

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.measured.throughput import timed
from benchmarks.gpu.scale import Load

NEEDED = ("pyarrow", "jinja2")
"""What reading and writing rows takes beside what the engine needs."""


def run(bench: Bench) -> None:
    """The first workload by the engine alone, then as a job; both with all statistics."""
    lacking = [name for name in NEEDED if find_spec(name) is None]
    if lacking:
        bench.report.row("whole job", "left out", "", f"{' and '.join(lacking)} not installed")
        return
    load = bench.scale.loads[0]
    alone = timed(bench, bench.large_engine(), load)
    bench.close_all()
    rate, busy = _rate(bench, load)
    note = f"{100 * rate / alone:.0f} % of the engine alone ({alone:,.0f} tok/s)"
    bench.report.row(f"{load.name} as a job", rate, "tok/s", note)
    bench.report.row(
        "processor's cores in use", busy, "", "process time ÷ elapsed: reader, writer and engine share one GIL"
    )


def _rate(bench: Bench, load: Load) -> tuple[float, float]:
    """(tokens per second, cores in use) of the second of two runs of all shards, the first one being the warm-up."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.engine.config import EngineConfig, ModelConfig
    from pipeline.output.config import OutputConfig
    from pipeline.prompts.config import SourceConfig
    from pipeline.types import Task
    from pipeline.work.config import ClusterConfig, GenerateConfig
    from pipeline.work.prepare import prepare
    from pipeline.work.sampling import SamplingConfig
    from pipeline.work.worker import Worker

    work, folder = load.work(0, bench.scale.large.vocab), bench.folder / "job"
    folder.mkdir(exist_ok=True)
    source = folder / "in.parquet"
    pq.write_table(pa.table({"ids": pa.array([prompt for prompt, _ in work], pa.list_(pa.int32()))}), source)
    gpus = 1.0 if bench.device.kind == "cuda" else 0.0

    config = GenerateConfig(
        model=ModelConfig(path=str(bench.large), dtype="bfloat16"),
        engine=EngineConfig(max_num_seqs=str(bench.scale.seqs), max_model_len=bench.scale.max_len),
        sampling=SamplingConfig(max_tokens=load.new or work[0][1], ignore_eos=True),
        source=SourceConfig(path=str(source), prompt_column=None, token_ids_column="ids"),
        output=OutputConfig(path=str(folder / "out"), rows_per_shard=max(1, len(work) // 4)),
        cluster=ClusterConfig(name="inline", gpus_per_replica=gpus),
    )  # fmt: skip
    job = prepare(config).job
    made, plan = Worker(job), job.plan
    try:
        for turn in range(2):
            start, used = time.perf_counter(), time.process_time()
            reports = [made.submit(Task(plan.shard(i), attempt=turn + 1)) for i in range(plan.shard_count)]
            tokens = sum(report.completion_tokens for future in reports if (report := future.result()) is not None)
            elapsed, used = time.perf_counter() - start, time.process_time() - used
    finally:
        made.close()
    bench.report.event("run", engine="promptmill, whole job", load=load.name, tokens=tokens, seconds=elapsed)
    return tokens / elapsed, used / elapsed
