"""Linear layers whose rows do not depend on the batch they are in: which product stands for a weight on this machine.

What a product promises (`products`, `int8`) is checked here with the weight's own shape when the model is loaded, and the
first that keeps its promise is taken (`choose_kernel`). The order follows from the machine alone; nothing is timed.

It does not know models; see `exchange`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import nn

from pipeline.engine import native
from pipeline.engine.int8 import CompiledInt8Product, Float64Sums, Int8Product, IntMmSums, OneDnnSums
from pipeline.engine.native.product import Float32Layer
from pipeline.engine.processor import processor
from pipeline.engine.products import (
    FIXED_ROWS,
    FixedRowsProduct,
    LibraryProduct,
    LogitsProduct,
    MklProduct,
    OneDnnProduct,
)

MIN_ROWS = 2
"""torch gives a single row a matrix-vector kernel with other rounding, so a step never has one row only."""


class Product(Protocol):
    """x [M, K] → x · Wᵀ + b, [M, N], with the weight held in whatever form the kernel likes."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply; M is at least MIN_ROWS."""


Kernel = Callable[[torch.Tensor, torch.Tensor | None], Product]


def _fixed(kernel: Kernel, rows: int) -> Kernel:
    """A kernel that is always given the same number of rows."""
    return lambda weight, bias: FixedRowsProduct(kernel(weight, bias), rows)


KERNELS: dict[str, Kernel] = {
    "compiled": Float32Layer,
    "mkl-packed": MklProduct,
    "onednn-packed": OneDnnProduct,
    "fixed-rows": _fixed(LibraryProduct, FIXED_ROWS),
    "fixed-rows-256": _fixed(LibraryProduct, 256),
    "fixed-rows-64": _fixed(LibraryProduct, 64),
    "library": LibraryProduct,
    "logits-256": _fixed(LogitsProduct, 256),
    "logits-64": _fixed(LogitsProduct, 64),
    "logits": LogitsProduct,
    "int8-compiled": CompiledInt8Product,
    "int8-onednn": partial(Int8Product, sums=OneDnnSums),
    "int8-mm": partial(Int8Product, sums=IntMmSums),
    "int8-float64": partial(Int8Product, sums=Float64Sums),
}
"""Those whose names begin with int8 quantise; among themselves they give the same bits."""
ROW_UNITS = {"fixed-rows": 32, "fixed-rows-256": 256, "fixed-rows-64": 64, "logits-256": 256, "logits-64": 64}
"""Rows that a kernel computes at least, and in multiples of which it wastes nothing."""
AS_IT_IS = frozenset({"fixed-rows", "fixed-rows-256", "fixed-rows-64", "library"})
"""Kernels that keep the weight that they are given."""
UNPREPARED = frozenset({"compiled", "int8-compiled"})
"""Kernels that prepare nothing for a number of rows, so that any number is as good as another."""


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


def candidates(
    dtype: torch.dtype, device: torch.device, *, int8: bool = False, output: bool = False, deterministic: bool = True
) -> list[str]:
    """Kernels to try, best first. A pure function of the machine: replicas must not disagree, so nothing is timed.

    Args:
        dtype: Type of the model.
        device: Where it is.
        int8: Quantise.
        output: For the layer that gives the logits.
        deterministic: Give a row the same bits in every batch. Processors always do.
    """
    if device.type != "cpu":
        # a GPU hardly notices fewer rows than 256, as it reads the weights meanwhile
        fixed, free = (
            (["logits-256", "logits-64"], ["logits"]) if output else (["fixed-rows-256", "fixed-rows-64"], ["library"])
        )
        return fixed if deterministic else free
    vendor, flags = processor()
    built = native.library() is not None
    if int8:
        # Without these instructions oneDNN's product is wrong or slow, and only the first would be noticed.
        onednn = ["int8-onednn"] if flags & {"avx512_vnni", "avx_vnni", "amx_int8"} else []
        compiled = ["int8-compiled"] if built and "avx512_vnni" in flags else []
        # oneDNN knows matrix units, which do several times what the vectors do
        fast = [*onednn, *compiled] if "amx_int8" in flags else [*compiled, *onednn]
        return [*fast, "int8-mm", "int8-float64"]
    compiled = ["compiled"] if built and dtype == torch.float32 else []
    mkl = ["mkl-packed"] if vendor == "GenuineIntel" and dtype == torch.float32 else []
    return [*compiled, *mkl, "onednn-packed", "fixed-rows"]


def choose_kernel(weight: torch.Tensor, bias: torch.Tensor | None, names: Sequence[str]) -> tuple[str, bool]:
    """Return the first kernel that gives rows the same bits in every batch for a weight [N, K], and whether one does.

    When none passes, the last is taken and the promise of identical bytes does not hold for this model here.
    """
    for name in names:
        if _passes(name, weight, bias):
            return name, True
    return names[-1], False


_PROBE_ROWS = 288
_COMPARED = slice(0, None, 12)
"""Rows of the probe that are compared with the truth, which is slow; the others must only agree with themselves."""
_PARTS = (
    (0, 2), (5, 8), (0, 4), (90, 95), (1, 7), (1, 8), (2, 11), (3, 13), (3, 19), (60, 93), (0, 64), (100, 228),
)  # fmt: skip
"""Places and numbers of rows at which the product must give what it gives for all of the probe at once. With these and all
of it, every size of group that the compiled products have code for is run."""
_BLOCK = 4096
"""Channels that are compared at once, so that the float64 copy is small beside the weight."""
_LOST = {"cpu": 5e-7, "cuda": 1e-5}
"""What a sum of products in float32 may lose, as a share of |x| · |w|: a few times what blocked sums do; on a GPU all are
added one after the other, in matrix units with bits cut off."""


def _passes(name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Check a kernel: right, and the same bits whatever the number of rows and the row's place."""
    x = _probe(weight)
    try:
        product = KERNELS[name](weight, bias)
        whole = product(x)
    except (RuntimeError, NotImplementedError, AttributeError):
        return False  # the operator is absent in this build of torch, or not for this type on this processor
    right = _exact if name.startswith("int8") else _close
    return right(whole[_COMPARED], x[_COMPARED], weight, bias) and all(
        torch.equal(product(x[start:stop].contiguous()), whole[start:stop]) for start, stop in _PARTS
    )


def _probe(weight: torch.Tensor) -> torch.Tensor:
    """Rows to check with: random ones, and some compared ones whose products add up, to find sums that do not fit."""
    x = torch.randn(_PROBE_ROWS, weight.shape[1], generator=torch.Generator().manual_seed(0))
    x[0], x[12], x[24] = 1, -1, weight[0].sign()
    return x.to(weight.device, weight.dtype)


def _exact(y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    return torch.equal(y, KERNELS["int8-float64"](weight, bias)(x))


def _close(y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Compare with float64: the result's own rounding, and what sums in float32 lose.

    Products or sums in a shorter format than float32 lose many times as much.
    """
    x, eps = x.double(), torch.finfo(y.dtype).eps
    bias = torch.zeros_like(weight[:, 0]) if bias is None else bias
    for first in range(0, len(weight), _BLOCK):
        here = slice(first, first + _BLOCK)
        w, b = weight[here].double(), bias[here].double()
        exact = torch.addmm(b, x, w.t())
        lost = _LOST[weight.device.type] * x.square().sum(1, keepdim=True).sqrt() * w.square().sum(1).sqrt()
        if not ((y[:, here] - exact).abs() <= eps * (exact.abs() + b.abs()) + lost).all():
            return False
    return True
