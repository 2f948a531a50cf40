"""The engine's kernels for a GPU, written in Triton, which the CUDA builds of torch bring along.

Triton is imported only where a kernel runs. It does not know sequences or schedules: see the modules beside it.
"""

from __future__ import annotations

import functools
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

DEVICES = frozenset({"cuda"})
"""Kinds of device that the kernels run on. Tests add `cpu`, where Triton's interpreter runs them."""


def serves(device: torch.device) -> bool:
    """Whether the kernels can run on a device."""
    return device.type in DEVICES and _installed()


@functools.cache
def _installed() -> bool:
    return find_spec("triton") is not None


def facts() -> dict[str, str]:
    """What the identity of bits rests on, beside the card's name and torch's version: of CUDA, and of Triton if it is there."""
    found = {"cuda": str(torch.version.cuda)}
    try:
        return {**found, "triton": version("triton")}
    except PackageNotFoundError:
        return found
