"""Products with a weight in the model's own type, of which a row's bits do not depend on the batch.

A general matrix product picks its kernel by the number of rows, and other kernels round differently. These do not: oneDNN's
and MKL's with a weight packed once, whose blocking is fixed by the packing, and any product that is always given the same
number of rows. The two packed operators are private to torch. Whether they keep the promise here is not for this module to
know; see `linear`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

FIXED_ROWS = 32
_PACKED_FOR_ROWS = 64


class OneDnnProduct:
    """oneDNN's product with a packed weight: float32, and bfloat16 or float16 where the processor multiplies them itself."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Pack `weight` [N, K]."""
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACKED_FOR_ROWS)
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")  # type: ignore[no-any-return]


class MklProduct:
    """MKL's product with a packed weight, float32 only: the fastest exact one on Intel's processors."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Pack `weight` [N, K]; the operator wants the original only for its shape, so a stand-in saves its memory."""
        self._weight = torch.ops.mkl._mkl_reorder_linear_weight(weight.contiguous(), _PACKED_FOR_ROWS)
        self._shape = torch.empty(1, dtype=weight.dtype).expand(weight.shape)
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply; the last argument must be x's rows, or torch takes another product."""
        return torch.ops.mkl._mkl_linear(x, self._weight, self._shape, self._bias, len(x))  # type: ignore[no-any-return]


class FixedRowsProduct:
    """The library's product at exactly FIXED_ROWS rows, again and again: exact wherever the row's index does not matter."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Keep `weight` [N, K] as it is."""
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply block by block, the last block filled up with zero rows."""
        rows = len(x)
        padded = F.pad(x, (0, 0, 0, -rows % FIXED_ROWS))
        blocks = padded.view(-1, FIXED_ROWS, x.shape[1])
        return torch.cat([F.linear(block, self._weight, self._bias) for block in blocks])[:rows]
