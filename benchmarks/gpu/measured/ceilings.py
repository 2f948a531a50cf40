"""What the machine can do at most: the bandwidth of a large copy, and the rate of a large product.

It does not know the engine.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.gpu.bench import Bench
from benchmarks.parts.procedure import versions


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Bytes per second, read and written both counted; operations per second of a bfloat16 product on random numbers."""

    bandwidth: float
    rate: float


def machine(bench: Bench) -> None:
    """Report the machine and its ceilings."""
    facts = bench.device.describe() | versions("torch", "triton", "transformers", "numpy")
    facts["python"] = platform.python_version()
    for name, value in facts.items():
        bench.report.row(name, str(value))
    found = measure(bench)
    bench.report.row(
        "copy bandwidth", found.bandwidth / 1e12, "TB/s", f"{bench.scale.copy_bytes / 1e9:.2g} GB, read + written"
    )
    bench.report.row("bf16 product", found.rate / 1e12, "TFLOP/s", f"{bench.scale.square}³, random")


def measure(bench: Bench) -> Ceilings:
    """Measure both; it takes less than a second."""
    side, device = bench.scale.square, bench.device
    matrices = [torch.randn(side, side, dtype=torch.bfloat16, device=device.kind) for _ in range(2)]
    product = device.milliseconds(partial(torch.matmul, *matrices))
    del matrices
    return Ceilings(bandwidth(bench), 2 * side**3 / product * 1e3)


def bandwidth(bench: Bench) -> float:
    """Bytes a second of a large copy, read and written both counted."""
    source = torch.randn(bench.scale.copy_bytes // 4, device=bench.device.kind)
    target = torch.empty_like(source)
    milliseconds = bench.device.milliseconds(partial(target.copy_, source))
    del source, target
    bench.device.release()
    return 2 * bench.scale.copy_bytes / milliseconds * 1e3
