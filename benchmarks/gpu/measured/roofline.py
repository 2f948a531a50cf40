"""Where a decoding step's time goes: against the bytes that it must read, between host and device, and by kernel.

It does not know how the engine runs a step.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import ours
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.device import Span
from benchmarks.gpu.measured.ceilings import bandwidth
from benchmarks.parts.workload import Work
from pipeline.engine.base import BuiltEngine
from pipeline.engine.cache.block_pool import BLOCK
from pipeline.engine.cache.kv_cache import block_bytes

PROMPT = 32
TURNS = 3
TOP = 10
LONGEST_NAME = 56
BYTES_OF_TYPE = 2


def step_time(bench: Bench) -> None:
    """A step of `seqs` sequences against the least that it must read."""
    speed = bandwidth(bench)
    short, long = bench.scale.steps
    context = PROMPT + (short + long) / 2
    sizes = bench.sizes.sizes
    weights = (sizes.body + sizes.head) * BYTES_OF_TYPE
    shape = bench.scale.large
    cache = (
        bench.scale.seqs * context * token_bytes(shape.layers, shape.heads, shape.width // shape.heads, torch.bfloat16)
    )
    floor = 1e3 * (weights + cache) / speed
    step, busy = step_milliseconds(bench, bench.large_engine())
    bench.report.row(
        "least time of a step", floor, "ms",
        f"{weights / 1e9:.3g} GB weights + {cache / 1e9:.3g} GB keys and values at {speed / 1e12:.2f} TB/s",
    )  # fmt: skip
    bench.report.row("step, all statistics", step, "ms", f"{bench.scale.seqs} sequences at {context:.0f} positions")
    bench.report.row("share of the copy bandwidth", 100 * floor / step, "%", "least time ÷ step")
    bench.report.row("host busy", 100 * busy, "%", "1 - waited ÷ elapsed, of a whole run")


def token_bytes(layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> float:
    """Bytes of one token's keys and values in all layers, scales included."""
    return block_bytes(layers, kv_heads, head_dim, dtype) / BLOCK


def step_milliseconds(bench: Bench, built: BuiltEngine) -> tuple[float, float]:
    """(time of a step, share of the time that the host is busy): medians.

    Two runs that differ only in how many tokens they generate differ by that many full steps.
    """
    short, long = bench.scale.steps
    _run(bench, built, long, turn=1000)  # a warm-up
    differences, busy = [], []
    for turn in range(TURNS):
        quick, _ = _run(bench, built, short, 2 * turn)
        slow, share = _run(bench, built, long, 2 * turn + 1)
        differences.append(1e3 * (slow - quick) / (long - short))
        busy.append(share)
    bench.report.event("steps", milliseconds=differences, busy=busy)
    return statistics.median(differences), statistics.median(busy)


def _run(bench: Bench, built: BuiltEngine, new: int, turn: int) -> tuple[float, float]:
    """(seconds, share of them in which the host is busy) of `seqs` requests with `new` tokens each."""
    engine: Any = built.engine
    bench.device.synchronize()
    waited, start = engine.waited, time.perf_counter()
    ours.run(engine, _work(bench, new, turn))
    seconds = time.perf_counter() - start
    return seconds, 1 - (engine.waited - waited) / seconds


def _work(bench: Bench, new: int, turn: int) -> Work:
    """Prompts that differ from turn to turn, in their first token too: no cached block serves the next run."""
    vocab = bench.scale.large.vocab
    draw = torch.Generator().manual_seed(turn)
    prompts = torch.randint(1, vocab, (bench.scale.seqs, PROMPT), generator=draw).tolist()
    return [(prompt, new) for prompt in prompts]


def profile(bench: Bench) -> None:
    """The kernels of a few full steps."""
    engine = bench.large_engine().engine
    short, long = bench.scale.steps
    _run(bench, bench.large_engine(), long, 0)  # a warm-up
    ours.add(engine, _work(bench, long, 1))
    for _ in range(short):
        engine.step()
    steps = bench.scale.traced
    spans = bench.device.trace(lambda: [engine.step() for _ in range(steps)])
    while any(engine.load()):
        engine.step()
    if not spans:
        raise RuntimeError("the profiler saw nothing on the device")
    busy, gaps = busy_and_gaps(spans)
    note = f"of {steps} steps, with the profiler's own cost"
    bench.report.row("kernels a step", len(spans) / steps, "", note)
    bench.report.row("device busy", busy / steps / 1e3, "ms a step", note)
    bench.report.row("gaps between kernels", gaps / steps / 1e3, "ms a step", note)
    totals: defaultdict[str, list[float]] = defaultdict(list)
    for span in spans:
        totals[span.name].append(span.end - span.start)
    for name, times in sorted(totals.items(), key=lambda item: -sum(item[1]))[:TOP]:
        share = 100 * sum(times) / busy
        note = f"{len(times) / steps:.3g} times, {share:.1f} %"
        bench.report.row(f"kernel {name[:LONGEST_NAME]}", sum(times) / steps / 1e3, "ms a step", note)


def busy_and_gaps(spans: Sequence[Span]) -> tuple[float, float]:
    """(time in which at least one span runs, time between the first and the last in which none does), in their unit."""
    ordered = sorted(spans, key=lambda span: span.start)
    busy, reached = 0.0, ordered[0].start
    for span in ordered:
        busy += max(0.0, span.end - max(span.start, reached))
        reached = max(reached, span.end)
    return busy, reached - ordered[0].start - busy
