"""The compiled passes around the products: activations, and the scaling of rows for int8.

Each goes over memory once where torch's operations take several. It does not know which layer it serves.
"""

from __future__ import annotations

from ctypes import CDLL, c_int, c_int64, c_void_p

import torch
from torch import nn

from pipeline.engine.native import library


def activation_kind(function: nn.Module) -> int | None:
    """Number of an activation that is compiled; null for others."""
    if isinstance(function, nn.GELU) and function.approximate == "tanh":
        return 0
    return 1 if isinstance(function, nn.SiLU) else None


def activate(x: torch.Tensor, kind: int) -> torch.Tensor:
    """Apply the activation of that number to float32 [..., N]."""
    x = x.contiguous()
    y, width = torch.empty_like(x), x.shape[-1]
    arguments = (c_void_p, c_void_p, c_int64, c_int64, c_int, c_int)
    _call("activate", arguments, x.data_ptr(), y.data_ptr(), x.numel() // width, width, kind, torch.get_num_threads())
    return y


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise rows [M, K] of float32 symmetrically.

    Returns:
        (uint8 [M, K]: 128 + 127 · x / largest, to nearest, ties to even; largest [M]: the largest magnitude of each row, NaN
        where it is not finite).
    """
    x, (rows, width) = x.contiguous(), x.shape
    quantised, largest = torch.empty(x.shape, dtype=torch.uint8), torch.empty(rows)
    arguments = (c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int)
    pointers = (x.data_ptr(), quantised.data_ptr(), largest.data_ptr())
    _call("quantise", arguments, *pointers, rows, width, torch.get_num_threads())
    return quantised, largest


def finish_(y: torch.Tensor, factors: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Multiply rows [M, N] of contiguous float32 by `factors` [M] and add `bias` [N], in place."""
    rows, width = y.shape
    arguments = (c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int)
    pointers = (y.data_ptr(), factors.data_ptr(), None if bias is None else bias.data_ptr())
    _call("finish", arguments, *pointers, rows, width, torch.get_num_threads())
    return y


def _call(name: str, arguments: tuple[type, ...], *values: int | None) -> None:
    """Call a function of the library, which must be there."""
    found: CDLL | None = library()
    assert found is not None
    function = getattr(found, name)
    function.argtypes, function.restype = arguments, None
    function(*values)
