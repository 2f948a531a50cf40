"""Linear layers whose rows do not depend on the batch they are in, and are faster for it.

A general matrix product picks its kernel by the number of rows, and other kernels round differently. Three products do
not: oneDNN's and MKL's with a weight packed once, whose blocking is fixed by the packing, and any product that is always
given the same number of rows. Which of them keeps the promise is checked on this machine with the weight's own shape when
the model is loaded (`choose_kernel`). The two packed operators are private to torch, so their results are checked too.

It does not know models; see `exchange`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

MIN_ROWS = 2
"""A single row takes a matrix-vector kernel with other rounding, so a step never has one row only."""
FIXED_ROWS = 32
_PACKED_FOR_ROWS = 64


class Product(Protocol):
    """x [M, K] → x · Wᵀ + b, [M, N], with the weight held in whatever form the kernel likes."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply; M is at least MIN_ROWS."""


class OneDnnProduct:
    """oneDNN's product with a packed weight: the fastest exact one outside Intel's processors."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Pack `weight` [N, K]."""
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_FOR_ROWS)
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")  # type: ignore[no-any-return]


class MklProduct:
    """MKL's product with a packed weight: the fastest exact one on Intel's processors."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Pack `weight` [N, K]; the operator wants the original only for its shape, so a stand-in saves its memory."""
        self._weight = torch.ops.mkl._mkl_reorder_linear_weight(weight, _PACKED_FOR_ROWS)
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


class Int8Product:
    """Dynamic int8: a scale per output channel and one per token; the sums are whole numbers, so they are exact.

    Everything between the linears stays in the model's own type.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Quantise `weight` [N, K] symmetrically, channel by channel."""
        weight = weight.float()
        self._scale = weight.abs().amax(1).clamp_min_(1e-12) / 127
        self._weight = (weight / self._scale[:, None]).round_().to(torch.int8).t().contiguous()
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Quantise the rows of x, multiply in int8 with int32 sums, and scale back."""
        scale = x.abs().amax(1, keepdim=True).float().clamp_min_(1e-12) / 127
        quantised = (x / scale).round_().to(torch.int8)
        y = torch._int_mm(quantised, self._weight).float().mul_(scale).mul_(self._scale)
        return (y if self._bias is None else y.add_(self._bias)).to(x.dtype)


Kernel = Callable[[torch.Tensor, torch.Tensor | None], Product]
KERNELS: dict[str, Kernel] = {
    "mkl-packed": MklProduct,
    "onednn-packed": OneDnnProduct,
    "fixed-rows": FixedRowsProduct,
    "int8": Int8Product,
}


class PackedLinear(nn.Module):
    """Stands where a `Linear` or a `Conv1D` stood. The original weight is not kept."""

    def __init__(self, product: Product, in_features: int, out_features: int) -> None:
        """Wrap a product."""
        super().__init__()
        self._product = product
        self.in_features, self.out_features = in_features, out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., K] → [..., N]."""
        rows = x.reshape(-1, self.in_features)
        return self._product(rows if rows.is_contiguous() else rows.contiguous()).view(*x.shape[:-1], self.out_features)


@functools.cache
def processor_vendor() -> str:
    """`GenuineIntel`, `AuthenticAMD`, …, or an empty string where Linux does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), "")


def candidates(dtype: torch.dtype, device: torch.device) -> list[str]:
    """Kernels to try, best first. A pure function of the machine: replicas must not disagree, so nothing is timed."""
    if device.type != "cpu":
        return ["fixed-rows"]
    packed = ["mkl-packed", "onednn-packed"] if processor_vendor() == "GenuineIntel" else ["onednn-packed"]
    return [*(packed if dtype == torch.float32 else ["onednn-packed"]), "fixed-rows"]


def choose_kernel(weight: torch.Tensor, names: list[str]) -> tuple[str, bool]:
    """Return the first kernel that gives rows the same bits in every batch for a weight [N, K], and whether one does.

    When none passes, the last is taken and the promise of identical bytes does not hold for this model here.
    """
    for name in names:
        if _keeps_rows_apart(KERNELS[name], weight):
            return name, True
    return names[-1], False


def _keeps_rows_apart(kernel: Kernel, weight: torch.Tensor) -> bool:
    """Check a kernel: right within rounding, and the same bits whatever the number of rows and the row's place."""
    x = torch.randn(96, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    try:
        product = kernel(weight, None)
        whole = product(x)
    except (RuntimeError, NotImplementedError, AttributeError):
        return False  # the operator is absent in this build of torch
    expected = F.linear(x, weight)
    tolerance = 1e-4 if weight.dtype == torch.float32 else 2e-2
    if not torch.allclose(whole, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())):
        return False
    parts = ((0, 2), (5, 8), (90, 95), (3, 19), (60, 93), (0, 64))
    return all(torch.equal(product(x[start:stop].contiguous()), whole[start:stop]) for start, stop in parts)
