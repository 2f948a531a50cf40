"""Warns if the chosen kernel is slower on this machine than the library's own product.

Kernels are chosen by the kind of CPU, so that replicas agree (see `linear`); these measurements affect only the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pipeline.engine.layers.drawn_layer import DrawnLayer

Multiply = Callable[[torch.Tensor], torch.Tensor]
"""x [M, K] → [M, N]."""
Kernel = Callable[[torch.Tensor, torch.Tensor | None], Multiply]
"""A weight [N, K] and a bias [N] → their kernel."""
Clock = Callable[[], float]

_ROWS = 32
_ELEMENTS = 1 << 19
"""Elements of the measured slice of a weight, per thread."""
_SMALLEST = 1 << 18
"""Elements of a weight below which a call's overhead exceeds its arithmetic: such a model is fast anyway."""
_RUNS = 20
_LONG = 0.05
"""Seconds after which no further run starts."""
_SLOWER = 1.5
"""Ratio of times, ours to the library's in the same dtype, from which on a kernel counts as slow."""
_SLOWER_SHORT = 1.1
"""The same for shorter dtypes, which are chosen for their speed."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Speeds:
    """Operations per second; a multiplication with an addition counts as two.

    Attributes:
        chosen: Of the chosen kernel.
        library: Of the library's product in float32.
    """

    chosen: float
    library: float


def measure(
    kernel: Kernel, channels: int, width: int, dtype: torch.dtype, clock: Clock = time.perf_counter
) -> Speeds | None:
    """Measure a kernel and the library's product in float32, with a slice of a weight [channels, width].

    Args:
        kernel: The chosen kernel.
        channels: Output channels of the weight.
        width: Its inner dimension.
        dtype: Type of the model.
        clock: Returns the time in seconds.

    Returns:
        The speeds; None if the weight is too small to measure.
    """
    if channels * width < _SMALLEST:
        return None
    some = min(channels, max(64, _ELEMENTS * torch.get_num_threads() // width // 64 * 64))
    weight, _ = DrawnLayer(some, width, dtype, None, turned=False).draw()
    plain, x = weight.float(), torch.randn(_ROWS, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    wide, product = x.float(), kernel(weight, None)
    ways: tuple[Callable[[], object], ...] = (lambda: product(x)), (lambda: F.linear(wide, plain))
    for way in ways:  # the first call may prepare something
        way()
    chosen, library = _best(ways, clock)
    # other load may have interfered: only a kernel that is slow twice counts as slow
    if chosen > _SLOWER_SHORT * library:
        chosen, library = (min(pair) for pair in zip((chosen, library), _best(ways, clock), strict=True))
    work = 2.0 * _ROWS * some * width
    return Speeds(work / chosen, work / library)


def _best(ways: tuple[Callable[[], object], ...], clock: Clock) -> list[float]:
    """Return the shortest time of each kernel in seconds. They take turns, so that other load slows all of them."""
    start, best = clock(), [float("inf")] * len(ways)
    for _ in range(_RUNS):
        for i, way in enumerate(ways):
            before = clock()
            way()
            best[i] = min(best[i], max(clock() - before, 1e-9))
        if clock() - start > _LONG:
            break
    return best


def warning(name: str, dtype: torch.dtype, speeds: Speeds) -> str | None:
    """Return a warning about a kernel's speed; None if there is none.

    Args:
        name: The kernel's name; those that begin with int8 quantise.
        dtype: Type of the model.
        speeds: The measured speeds.
    """
    ratio = speeds.library / speeds.chosen
    chosen, library = (f"{speed / 1e9:.3g}" for speed in (speeds.chosen, speeds.library))
    slower = f"is slower than float32 on this processor ({name}): {chosen} against {library}"
    if name.startswith("int8"):
        quantised = f"model.quantization=int8 {slower} GOP/s; leave it out"
        return quantised if ratio > _SLOWER_SHORT else None
    if dtype != torch.float32:
        short = str(dtype).removeprefix("torch.")
        return f"model.dtype={short} {slower} GFLOP/s; set model.dtype=float32" if ratio > _SLOWER_SHORT else None
    if ratio <= _SLOWER:
        return None
    told = f"the product {name} is slow on this processor: {chosen} GFLOP/s, against {library} of the library's own"
    if "compiled" in name:
        return f"{told}; set engine.kernels=none"
    return f"{told}, which is not batch-invariant; promptmill's compiled kernels may be faster (engine.kernels=auto)"


def warn_if_slow(
    name: str, kernel: Kernel, channels: int, width: int, dtype: torch.dtype, clock: Clock = time.perf_counter
) -> None:
    """Measure the kernel of a model's largest weight, and warn in one line if the library's product is faster."""
    speeds = measure(kernel, channels, width, dtype, clock)
    told = None if speeds is None else warning(name, dtype, speeds)
    if told is not None:
        logger.warning("%s", told)
