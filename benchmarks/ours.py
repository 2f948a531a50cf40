"""Times promptmill's engine on a workload, all three statistics on, and prints one JSON line.

    python benchmarks/ours.py MODEL_DIR WORKLOAD REQUESTS MAX_NUM_SEQS [--int8] [--profile]

Loading and a warm-up of two requests are left out of the time. `--profile` prints where a step's milliseconds go instead.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from workload import WORKLOADS, make

from pipeline.engine.base import Engine
from pipeline.engine.build import build_engine
from pipeline.engine.checkpoint import resolve
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.types import Completion, Request, SamplingParams

PROFILED_STEPS = 8


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("requests", type=int)
    parser.add_argument("max_num_seqs", type=int)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    model = ModelConfig(path=str(arguments.model), quantization="int8" if arguments.int8 else "none")
    longest = 512 if arguments.workload == "mixed" else 96
    config = EngineConfig(max_num_seqs=arguments.max_num_seqs, max_model_len=longest)
    built = build_engine(resolve(model), model, config, StatsConfig())
    work = make(arguments.workload, arguments.requests)
    warm_up = [(prompt, 2) for prompt, _ in work[:2]]
    run(built.engine, warm_up)
    if arguments.profile:
        profile(built.engine, work)
        return
    start = time.perf_counter()
    done = run(built.engine, work)
    seconds = time.perf_counter() - start
    tokens = sum(len(c.token_ids) for c in done)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures = {"engine": "promptmill", "workload": arguments.workload, "requests": arguments.requests, "tokens": tokens,
               "batch": built.facts["max_num_seqs"], "kernels": built.facts["linear_kernels"], "seconds": round(seconds, 2),
               "tok_s": round(tokens / seconds, 1), "peak_gib": round(peak / 2**30, 2)}  # fmt: skip
    print(json.dumps(figures))


def add(engine: Engine, work: list[tuple[list[int], int]]) -> None:
    """Queue a workload."""
    engine.add(
        [
            Request(str(i), 0, tuple(prompt), SamplingParams(max_tokens=new, min_tokens=new, ignore_eos=True))
            for i, (prompt, new) in enumerate(work)
        ]
    )


def run(engine: Engine, work: list[tuple[list[int], int]]) -> list[Completion]:
    """Run a workload to its end."""
    add(engine, work)
    done: list[Completion] = []
    while any(engine.load()):
        done += engine.step()
    return done


def profile(engine: Engine, work: list[tuple[list[int], int]]) -> None:
    """Print torch's profile of a few steps in the middle of a workload."""
    add(engine, work)
    for _ in range(2 * PROFILED_STEPS):
        engine.step()
    with torch.profiler.profile() as profiled:
        for _ in range(PROFILED_STEPS):
            engine.step()
    print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))


if __name__ == "__main__":
    main()
