"""Copies arrays from the host's memory to the device's without waiting for it, and tells whether the device still works.

A plain copy of a tensor to a GPU waits until the GPU has done all its queued work.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike

from pipeline.wording import named


def upload(values: ArrayLike, dtype: DTypeLike, device: torch.device) -> torch.Tensor:
    """Return a tensor on the device. The host does not wait for the copy; later work of the device does.

    Args:
        values: An array, which must not be written to afterwards, or nested lists.
        dtype: Type of the elements.
        device: Where the tensor goes.
    """
    tensor = torch.from_numpy(np.asarray(values, dtype))
    if device.type == "cpu":
        return tensor
    # torch reuses page-locked memory only after the copy from it is done
    return tensor.pin_memory().to(device, non_blocking=True)


def lost(device: torch.device) -> str | None:
    """Return why a device no longer works in this process; None: it works, as a processor always does.

    After an illegal access, an ECC error or the loss of a card, CUDA answers every call with the error, until the process
    ends. An error that a wait for the device does not repeat, such as a launch that was refused, leaves the device usable.
    """
    if device.type == "cpu":
        return None
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        return named(error)
    return None


def give_memory_back(device: torch.device) -> None:
    """Give unused memory that torch keeps back to a GPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
