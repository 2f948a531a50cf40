"""What the engine's options are worth: 8-bit cache and weights, other kernels, shared beginnings.

It does not know what they do.
"""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.throughput import timed

LOADING: dict[str, dict[str, Any]] = {
    "kv_cache_dtype=int8": {"loading": {"kv_cache_dtype": "int8"}},
    "quantization=int8": {"loading": {"quantization": "int8"}},
    "both int8": {"loading": {"kv_cache_dtype": "int8", "quantization": "int8"}},
    "deterministic=False": {"deterministic": False},
}


def each(bench: Bench) -> None:
    """Every option on the first two workloads against none of them, run just before."""
    loads, shared = bench.scale.loads[:2], bench.scale.few_shot
    plain = {load.name: timed(bench, bench.large_engine(), load) for load in loads}
    on = timed(bench, bench.large_engine(), shared)
    for name, rate in plain.items():
        bench.report.row(f"{name}, no option", rate, "tok/s", _memory(bench))
    for label, options in LOADING.items():
        try:
            for load in loads:
                rate = timed(bench, bench.large_engine(**options), load)  # made once: the bench keeps it
                note = f"{rate / plain[load.name]:.3g} ×; {_memory(bench)}"
                bench.report.row(f"{load.name}, {label}", rate, "tok/s", note)
        except Exception as error:  # the others are still worth knowing
            bench.report.row(label, "failed", "", f"{type(error).__name__}: {error}", good=False)
            bench.device.synchronize()  # raises where the device is lost
    off = timed(bench, bench.large_engine(prefix_caching=False), shared)
    bench.report.row("few_shot, prefix caching on", on, "tok/s", f"{on / off:.3g} × off")
    bench.report.row(
        "few_shot, prefix caching off", off, "tok/s", f"{shared.requests} requests, 256 shared tokens, 16 new"
    )
    bench.close()


def _memory(bench: Bench) -> str:
    return f"{bench.device.peak_bytes() / 1e9:.3g} GB at most"
