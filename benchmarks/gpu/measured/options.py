"""What the engine's options are worth: an 8-bit cache, other kernels, shared beginnings.

It does not know what they do.
"""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.measured.roofline import step_milliseconds
from benchmarks.gpu.measured.throughput import timed

LOADING: dict[str, dict[str, Any]] = {
    "kv_cache_dtype=int8": {"loading": {"kv_cache_dtype": "int8"}},
    "deterministic=False": {"deterministic": False},
}


def each(bench: Bench) -> None:
    """Every option on `mixed` against none of them, run just before; then what statistics and shared beginnings are worth."""
    load, shared = next(load for load in bench.scale.loads if load.name == "mixed"), bench.scale.few_shot
    plain = timed(bench, bench.large_engine(), load)
    bench.report.row("mixed, no option", plain, "tok/s", _memory(bench))
    step, _ = step_milliseconds(bench, bench.large_engine())
    on = timed(bench, bench.large_engine(), shared)
    for label, options in LOADING.items():
        try:
            rate = timed(bench, bench.large_engine(**options), load)
            bench.report.row(f"mixed, {label}", rate, "tok/s", f"{rate / plain:.3g} ×; {_memory(bench)}")
        except Exception as error:  # the others are still worth knowing
            bench.report.row(label, "failed", "", f"{type(error).__name__}: {error}", good=False)
            bench.device.synchronize()  # raises where the device is lost
    without, _ = step_milliseconds(bench, bench.large_engine(stats={"columns": []}))
    note = f"a step of {step:.4g} ms with all, {without:.4g} ms with the log-probability only"
    bench.report.row("cost of entropy and rank", 100 * (step / without - 1), "%", note)
    off = timed(bench, bench.large_engine(prefix_caching=False), shared)
    bench.report.row("few_shot, prefix caching on", on, "tok/s", f"{on / off:.3g} × off")
    bench.report.row(
        "few_shot, prefix caching off", off, "tok/s", f"{shared.requests} requests, 256 shared tokens, 16 new"
    )


def _memory(bench: Bench) -> str:
    return f"{bench.device.peak_bytes() / 1e9:.3g} GB at most"
