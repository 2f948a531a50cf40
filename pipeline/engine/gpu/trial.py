"""Tries kernels on a device when a model is loaded: a kernel that fails is not used, and a lost device is reported."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from pipeline.engine.device import lost
from pipeline.errors import DeviceFault, ModelRefused

logger = logging.getLogger(__name__)


def passes(what: str, device: torch.device, trial: Callable[[], bool]) -> bool:
    """Whether kernels pass their trial. Otherwise a warning says why, and torch does their work.

    Args:
        what: What the kernels compute.
        device: Where they run.
        trial: Whether their results are right; may raise whatever a compiler, a driver or a card comes up with.

    Raises:
        DeviceFault: If the device was lost before.
        ModelRefused: If the trial loses the device: then torch could not do their work in this process either.
    """
    if (before := lost(device)) is not None:
        raise DeviceFault(f"the device does not work: {before}")
    try:
        right = trial()
        why = "" if right else "their results are not right here"
    except Exception as error:
        right, why = False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    if (after := lost(device)) is not None:
        raise ModelRefused(
            f"the GPU's kernels for {what} break the device when they are tried: {after}; set engine.gpu_kernels=off, with a "
            "new output.path, as that changes output bytes"
        )
    if not right:
        logger.warning("the GPU's kernels for %s are not used, and torch does their work, slower: %s", what, why)
    return right
