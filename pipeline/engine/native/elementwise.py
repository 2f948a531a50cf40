"""The compiled activations: one pass over memory where torch's operations take several; see `elementwise.c`."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.engine.native import needed


def activation_kind(function: nn.Module) -> int | None:
    """Return the number of a compiled activation; None if it is not compiled."""
    if isinstance(function, nn.GELU) and function.approximate == "tanh":
        return 0
    return 1 if isinstance(function, nn.SiLU) else None


def activate(x: torch.Tensor, kind: int) -> torch.Tensor:
    """Apply the activation of that number to float32 [..., N]."""
    x = x.contiguous()
    y, width = torch.empty_like(x), x.shape[-1]
    needed().activate(x.data_ptr(), y.data_ptr(), x.numel() // width, width, kind, torch.get_num_threads())
    return y
