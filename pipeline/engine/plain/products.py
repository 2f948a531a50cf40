"""Matrix products with a weight in the model's own type, where a row's bits do not depend on the batch.

A general matrix product chooses its kernel by the number of rows, and kernels round differently. These products do not:
oneDNN's and MKL's with a weight packed once, whose blocking is fixed by the packing, and any product that always gets the
same number of rows. The two packed operators are private to torch. `linear_check` tests whether they keep the promise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F

FIXED_ROWS = 32
"""Rows of a fixed product on a processor."""
ALIGNED = 64
_PACKED_FOR_ROWS = 64


class IntoPlace(Protocol):
    """A product that can be put where it belongs, so that nothing is copied."""

    channels: int

    def room(self, x: torch.Tensor) -> torch.Tensor:
        """Allocate the result for x [M, K]: [M, N or more]."""

    def into(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """Multiply x [M, K] into some rows of `room`."""


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


class LibraryProduct:
    """The library's own product, with the kernel that it likes best for a number of rows: no promise about bits."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Keep `weight` [N, K] as it is."""
        self._weight, self._bias = weight, bias
        self.channels = len(weight)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        return F.linear(x, self._weight, self._bias)

    def room(self, x: torch.Tensor) -> torch.Tensor:
        """See `IntoPlace.room`."""
        return x.new_empty(len(x), self.channels)

    def into(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """See `IntoPlace.into`."""
        if self._bias is None:
            torch.mm(x, self._weight.t(), out=out)
        else:
            torch.addmm(self._bias, x, self._weight.t(), out=out)


class LogitsProduct:
    """The library's product for the output layer: sums in float32 are logits in float32, and not rounded before.

    In 16 bits many tokens would share a logit, so that neither ranks nor log-probabilities would tell them apart.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Take `weight` [N, K], with zeros up to a multiple of ALIGNED channels: an odd number makes unaligned rows."""
        self.channels = len(weight)
        self._weight = F.pad(weight, (0, 0, 0, -len(weight) % ALIGNED))
        self._bias = None if bias is None else F.pad(bias.float(), (0, -len(bias) % ALIGNED))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply: float32 [M, N]."""
        out = self.room(x)
        self.into(x, out)
        return out[:, : self.channels]

    def room(self, x: torch.Tensor) -> torch.Tensor:
        """See `IntoPlace.room`."""
        return torch.empty(len(x), len(self._weight), device=x.device)

    def into(self, x: torch.Tensor, out: torch.Tensor) -> None:
        """See `IntoPlace.into`."""
        weight = self._weight.t()
        if x.dtype != torch.float32 and x.is_cuda:
            torch.mm(x, weight, out_dtype=torch.float32, out=out)
        else:
            torch.mm(x.float(), weight.float(), out=out)
        if self._bias is not None:
            out.add_(self._bias)


class FixedRowsProduct:
    """A product at exactly `rows` rows, again and again: exact wherever the row's index does not matter.

    Args:
        product: What multiplies, by any number of rows.
        rows: How many it is given each time.
    """

    def __init__(self, product: Callable[[torch.Tensor], torch.Tensor], rows: int = FIXED_ROWS) -> None:
        """Wrap a product."""
        self._product, self._rows = product, rows

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply block by block, the last block filled up with zero rows."""
        if len(x) == self._rows:
            return self._product(x)
        padded = F.pad(x, (0, 0, 0, -len(x) % self._rows)) if len(x) % self._rows else x
        blocks = padded.view(-1, self._rows, x.shape[1])
        return torch.cat([self._product(block) for block in blocks])[: len(x)]


class BlockedProduct:
    """As `FixedRowsProduct`, for a GPU: each block of rows goes to its place, and no block is copied.

    With 512 sequences, the blocks' results are 0.5 GB per step of gpt2-large, which a concatenation would read and write again.

    Args:
        product: What multiplies, by any number of rows.
        rows: How many it is given each time.
    """

    def __init__(self, product: IntoPlace, rows: int) -> None:
        """Wrap a product."""
        self._product, self._rows = product, rows

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply block by block, the last block filled up with zero rows."""
        padded = F.pad(x, (0, 0, 0, -len(x) % self._rows)) if len(x) % self._rows else x
        out = self._product.room(padded)
        for block, place in zip(torch.split(padded, self._rows), torch.split(out, self._rows), strict=True):
            self._product.into(block, place)
        return out.narrow(0, 0, len(x)).narrow(1, 0, self._product.channels)
