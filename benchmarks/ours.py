"""Times promptmill's engine on a workload, all three statistics on, and prints one JSON line.

    python -m benchmarks.ours MODEL WORKLOAD REQUESTS BATCH [--int8] [--kernels native-v3] [--prefix-caching on|off] …

Loading and a warm-up are left out of the time. `peak_bytes` is the most memory that the process ever held,
loading included.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
from dataclasses import fields
from typing import Any

from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the jobs set it

from benchmarks.parts.procedure import measure, parser, report
from benchmarks.parts.workload import Answers, Work, answers, longest, make
from pipeline.engine.assembly import build_engine
from pipeline.engine.base import BuiltEngine, Engine
from pipeline.engine.config import KERNELS
from pipeline.engine.model.files.checkpoint import resolve
from pipeline.types import Request, SamplingParams

ONE = Answers()


def main() -> None:
    """Load, time, print."""
    arguments = options(__doc__).parse_args()
    built = build(arguments)
    asked = answers(arguments.workload)
    figures = measure(lambda work: run(built.engine, work, asked), arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    work = make(arguments.workload, arguments.requests)
    report(
        {
            "engine": "promptmill", "precision": "int8" if arguments.int8 else arguments.dtype, **figures, "peak_bytes": peak,
            "lengths": [len(prompt) + new for prompt, new in work for _ in range(asked.samples)], "facts": built.facts,
        },
        "promptmill", "torch", "transformers",
    )  # fmt: skip


def options(description: str | None) -> argparse.ArgumentParser:
    """The command line of everything that runs the engine."""
    made = parser(description)
    made.add_argument("--int8", action="store_true")
    made.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    made.add_argument("--kernels", choices=KERNELS, default="auto", help="as engine.kernels")
    made.add_argument("--kv-cache-dtype", choices=("auto", "bfloat16", "int8"), default="auto")
    made.add_argument("--prefix-caching", choices=("on", "off"), help="left out: the engine's default")
    return made


def build(arguments: argparse.Namespace) -> BuiltEngine:
    """Load the model with an engine as large as the workload needs."""
    model = ModelConfig(
        path=arguments.model, dtype=arguments.dtype, quantization="int8" if arguments.int8 else "none",
        kv_cache_dtype=arguments.kv_cache_dtype,
    )  # fmt: skip
    chosen: dict[str, Any] = {"kernels": arguments.kernels}
    if "prefix_caching" in {field.name for field in fields(EngineConfig)}:
        if arguments.prefix_caching is not None:
            chosen["prefix_caching"] = arguments.prefix_caching == "on"
    elif arguments.prefix_caching == "on":
        raise SystemExit("--prefix-caching=on: this version of the engine has no option prefix_caching")
    length = longest(make(arguments.workload, arguments.requests))
    config = EngineConfig(max_num_seqs=arguments.batch, max_model_len=length, **chosen)
    built = build_engine(resolve(model), model, config, StatsConfig())
    gc.collect()
    gc.freeze()  # as the worker does
    return built


def add(engine: Engine, work: Work, asked: Answers = ONE) -> None:
    """Queue a workload."""
    engine.add(
        [
            Request(str(i), sample, tuple(prompt), sampling(new, asked))
            for i, (prompt, new) in enumerate(work)
            for sample in range(asked.samples)
        ]
    )


def sampling(new: int, asked: Answers) -> SamplingParams:
    """Sample exactly `new` tokens; a choice ends by itself."""
    if asked.choice:
        return SamplingParams(max_tokens=new, choice=list(asked.choice), ignore_eos=True)
    return SamplingParams(n=asked.samples, max_tokens=new, min_tokens=new, ignore_eos=True)


def run(engine: Engine, work: Work, asked: Answers = ONE) -> int:
    """Run a workload to its end and return the number of tokens generated."""
    add(engine, work, asked)
    tokens = 0
    while any(engine.load()):
        tokens += sum(len(completion.token_ids) for completion in engine.step())
    return tokens


if __name__ == "__main__":
    main()
