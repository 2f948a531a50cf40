"""Copies arrays from the host's memory to the device's without waiting for the device.

A plain copy of a tensor to a GPU waits until the GPU has done all its queued work.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike


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
