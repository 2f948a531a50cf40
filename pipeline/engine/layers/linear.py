"""Linear layers whose rows do not depend on their batch, and the choice of the kernel for a weight on this machine.

When a model is loaded, `linear_check` tests the kernels (`products`, `int8`) with the weight's shape, and `choose_kernel`
takes the first that passes. The order of the kernels depends on the machine alone; nothing is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import nn

from pipeline.engine import native
from pipeline.engine.layers.drawn_layer import DISTINCT, DrawnLayer
from pipeline.engine.layers.int8 import CompiledInt8Product, Int8Product
from pipeline.engine.layers.linear_check import is_batch_invariant
from pipeline.engine.layers.verdicts import Verdicts
from pipeline.engine.native.product import Bfloat16Layer, Float32Layer
from pipeline.engine.plain.products import (
    FIXED_ROWS,
    BlockedProduct,
    FixedRowsProduct,
    IntoPlace,
    LibraryProduct,
    LogitsProduct,
    MklProduct,
    OneDnnProduct,
)
from pipeline.machine import processor

MIN_ROWS = 2
"""torch multiplies a single row by a matrix-vector kernel, which rounds differently, so a step always has more rows."""


class Product(Protocol):
    """Computes x [M, K] → x · Wᵀ + b, [M, N], with the weight in the kernel's own format."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply; M is at least MIN_ROWS."""


Kernel = Callable[[torch.Tensor, torch.Tensor | None], Product]


def _fixed(kernel: Kernel, rows: int) -> Kernel:
    """Return a kernel that always gets the same number of rows."""
    return lambda weight, bias: FixedRowsProduct(kernel(weight, bias), rows)


def _blocked(kernel: Callable[[torch.Tensor, torch.Tensor | None], IntoPlace], rows: int) -> Kernel:
    """The same for a GPU, whose results are put in place block by block."""
    return lambda weight, bias: BlockedProduct(kernel(weight, bias), rows)


KERNELS: dict[str, Kernel] = {
    "compiled": Float32Layer,
    "compiled-bfloat16": Bfloat16Layer,
    "mkl-packed": MklProduct,
    "onednn-packed": OneDnnProduct,
    "fixed-rows": _fixed(LibraryProduct, FIXED_ROWS),
    "fixed-rows-256": _blocked(LibraryProduct, 256),
    "fixed-rows-64": _blocked(LibraryProduct, 64),
    "library": LibraryProduct,
    "logits-256": _blocked(LogitsProduct, 256),
    "logits-64": _blocked(LogitsProduct, 64),
    "logits": LogitsProduct,
    "int8-compiled": CompiledInt8Product,
    "int8-torch": Int8Product,
}
"""Kernels whose names begin with int8 quantise; they all give the same bits."""
ROW_UNITS = {
    "fixed-rows": 32, "fixed-rows-256": 256, "fixed-rows-64": 64, "logits-256": 256, "logits-64": 64, "library": 64,
    "logits": 64,
}  # fmt: skip
"""Least number of rows of a kernel. Steps have multiples of it, as every number of rows is a shape to be recorded."""
AS_IT_IS = frozenset({"fixed-rows", "fixed-rows-256", "fixed-rows-64", "library"})
"""Kernels that keep a reference to the given weight."""
COPY_FIRST = frozenset({"mkl-packed", "onednn-packed"})
"""Kernels that copy a weight that is not row-major before they pack it, and keep neither."""
UNPREPARED = frozenset({"compiled", "compiled-bfloat16", "int8-compiled"})
"""Kernels that prepare nothing per number of rows, so that no number is better than another."""
SLICED = UNPREPARED
"""Kernels that are checked with a slice of a weight's channels. They go over panels of channels, each with the same code and by
itself, so a slice that ends as all channels do tells as much. So does one of int8's kernels, whose sums are whole numbers: what
may be wrong with them, saturation, lies along the inner dimension. A library may choose by the number of channels how it
divides the inner dimension: its products are checked whole."""


class PackedLinear(nn.Module):
    """Replaces a `Linear` or a `Conv1D`. The original weight is not kept."""

    def __init__(self, product: Product, in_features: int, out_features: int) -> None:
        """Wrap a product."""
        super().__init__()
        self._product = product
        self.in_features, self.out_features = in_features, out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., K] → [..., N]."""
        rows = x.reshape(-1, self.in_features)
        return self._product(rows if rows.is_contiguous() else rows.contiguous()).view(*x.shape[:-1], self.out_features)

    def zeros(self, x: torch.Tensor) -> torch.Tensor:
        """Return zeros of the result's shape, where only the shape matters."""
        return x.new_zeros(*x.shape[:-1], self.out_features)


def candidates(
    dtype: torch.dtype, device: torch.device, *, int8: bool = False, output: bool = False, deterministic: bool = True
) -> list[str]:
    """Return the kernels to try, best first. Nothing is timed: replicas on equal machines must agree.

    Args:
        dtype: The model's dtype.
        device: The model's device.
        int8: Whether weights are quantised.
        output: Whether the layer computes the logits.
        deterministic: Give a row the same bits in every batch. CPUs always do.
    """
    if device.type != "cpu":
        if not deterministic:
            return ["logits"] if output else ["library"]
        # with fewer than 256 rows, reading the weights takes most of a GPU's time
        return [*(["logits-256", "logits-64"] if output else []), "fixed-rows-256", "fixed-rows-64"]
    built = native.library() is not None
    if int8:
        return [*(["int8-compiled"] if built else []), "int8-torch"]
    if dtype == torch.bfloat16 and native.multiplies_bfloat16():
        return ["compiled-bfloat16", "onednn-packed", "fixed-rows"]
    # where the CPU has bfloat16 instructions, the library's product is faster even with padding rows
    widened = dtype == torch.bfloat16 and not processor()[1] & {"avx512_bf16", "amx_bf16"}
    compiled = ["compiled"] if built and (dtype == torch.float32 or widened) else []
    mkl = ["mkl-packed"] if processor()[0] == "GenuineIntel" and dtype == torch.float32 else []
    return [*compiled, *mkl, "onednn-packed", "fixed-rows"]


def choose_kernel(
    weight: torch.Tensor, bias: torch.Tensor | None, names: Sequence[str], verdicts: Verdicts | None = None
) -> tuple[str, bool]:
    """Return the first kernel that gives rows the same bits in every batch for a weight [N, K], and whether one does.

    If none passes, the last is taken, and identical bytes are not guaranteed for this model on this machine.

    Args:
        weight: The weight.
        bias: Its bias [N].
        names: Kernels to try.
        verdicts: Cached results of checks; None: no cache.
    """
    verdicts = Verdicts(None, "") if verdicts is None else verdicts
    for name in names:
        exact = KERNELS["int8-torch"] if name.startswith("int8") else None
        check = partial(is_batch_invariant, KERNELS[name], exact=exact)
        # kernels that keep the weight get it row-major: other strides may select other kernels
        turned = name not in AS_IT_IS
        if weight.device.type != "cpu":  # quick enough, and its memory may hold no second weight
            right = check(weight if turned else weight.contiguous(), bias)
        else:
            layer = DrawnLayer.like(weight, bias, turned=turned, sliced=name in SLICED or exact is not None)
            right = verdicts.answer(f"{name} {layer}", partial(_drawn_right, check, layer))
        if right:
            return name, True
    return names[-1], False


def _drawn_right(check: Callable[..., bool | None], layer: DrawnLayer) -> bool | None:
    return check(*layer.draw(), distinct=DISTINCT)
