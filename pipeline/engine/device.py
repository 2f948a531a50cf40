"""From the host's memory to the device's, without waiting for what the device is doing.

A plain copy of a tensor to a GPU waits until the GPU has done all that was asked of it before.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike


def upload(values: ArrayLike, dtype: DTypeLike, device: torch.device) -> torch.Tensor:
    """Return a tensor on the device. The host may go on before it is there; whatever the device does next comes after.

    Args:
        values: An array, which must not be written to afterwards, or nested lists.
        dtype: Type of the elements.
        device: Where the tensor is to be.
    """
    tensor = torch.from_numpy(np.asarray(values, dtype))
    if device.type == "cpu":
        return tensor
    # torch gives page-locked memory to another only when the copy from it is done
    return tensor.pin_memory().to(device, non_blocking=True)
