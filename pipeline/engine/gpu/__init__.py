"""The engine's kernels for a GPU, written in Triton, which the CUDA builds of torch include.

Triton is imported only where a kernel runs.
"""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

DEVICES = frozenset({"cuda"})
"""Kinds of device that the kernels run on. Tests add `cpu`, where Triton's interpreter runs them."""
VOCABULARY = 50257
"""Logits of a row that the sampler is tried with: an odd number of many tiles."""


_wanted = True


def use(kernels: str) -> None:
    """Say whether this process uses the kernels from now on: `auto` or `off`, as `engine.gpu_kernels`."""
    global _wanted
    _wanted = kernels != "off"


def serves(device: torch.device) -> bool:
    """Whether the kernels run on a device, and sample as they should there: looked at once in a process."""
    return _wanted and device.type in DEVICES and works(device.type)


@functools.cache
def works(kind: str) -> bool:
    """Whether Triton is there, and its kernels pass their check on this kind of device."""
    if find_spec("triton") is None:
        return False
    from pipeline.engine.gpu.sampler_check import kernels_are_right

    return kernels_are_right(VOCABULARY, torch.device(kind))


def facts() -> dict[str, str]:
    """What the identity of bits rests on, besides the card's name and torch's version."""
    found = {"cuda": str(torch.version.cuda), "gpu_kernels": "auto" if _wanted else "off"}
    try:
        return {**found, "triton": version("triton")}
    except PackageNotFoundError:
        return found
