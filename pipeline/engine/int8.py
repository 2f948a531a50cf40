"""Dynamic int8: the weight has a scale for each output channel, the activations one for each row.

The sums are whole numbers, so every way to compute them gives the same bits; the ways differ in speed alone. What surrounds
them (the largest value, quotients, products, roundings, one float32 addition) is rounded correctly by every processor, in a
vector and after its end alike. So a row's bits depend on the row and the weight, and on nothing else.

It does not know which ways are there and right on a machine; see `linear`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from pipeline.engine.native.product import Int8Layer

STEPS = 127
"""Steps from zero to the largest value of a row or channel; -128 is not used, so that both sides are alike."""
ZERO = 128
"""The byte that stands for zero in the rows: bytes have no sign."""
_SMALLEST = 1e-12
"""Stands for the largest value where that is less, so that nothing is divided by zero."""
_BLOCK = 4096
"""Channels that are handled at once, so that what is made on the way is small beside the weight."""


class Sums(Protocol):
    """Σ (rows - ZERO) · weight in whole numbers, rounded to float32 and multiplied by the channels' scales."""

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply bytes [M, K] by the weight [N, K] and sum: float32 [M, N]."""


class OneDnnSums:
    """oneDNN's product with a packed weight; it takes ZERO out of the sums by itself.

    Its rows must be without sign: with signed ones the operator takes a kernel that is thousands of times slower. On
    processors without VNNI instructions it adds products in pairs in 16 bits, which saturate; the check at loading finds that.
    """

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor) -> None:
        """Pack the int8 `weight` [N, K], which must be contiguous: the operator does not look at strides."""
        self._weight = torch.ops.onednn.qlinear_prepack(weight, None)
        self._scale, self._zeros = scale, torch.zeros(len(weight), dtype=torch.int32)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply and sum."""
        return torch.ops.onednn.qlinear_pointwise(  # type: ignore[no-any-return]
            rows, 1.0, ZERO, self._weight, self._scale, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )


class IntMmSums:
    """torch's product of int8 matrices with int32 sums."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor) -> None:
        """Lay the int8 `weight` [N, K] out as [K, N]."""
        self._weight, self._scale = weight.t().contiguous(), scale

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply and sum."""
        signed = rows.bitwise_xor(ZERO).view(torch.int8)
        return torch._int_mm(signed, self._weight).float().mul_(self._scale)


class Float64Sums:
    """Products in float64, exact up to 2^53: right everywhere and slow, the last resort and the check's measure."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor) -> None:
        """Keep the int8 `weight` [N, K]; it is widened block by block."""
        self._weight, self._scale = weight, scale

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Multiply and sum."""
        wide = rows.double() - ZERO
        blocks = [self._weight[first : first + _BLOCK] for first in range(0, len(self._weight), _BLOCK)]
        return torch.cat([(wide @ block.double().t()).float() for block in blocks], 1).mul_(self._scale)


class Int8Product:
    """x · Wᵀ + b in int8, between activations of the model's own type.

    The error of an element is at most Σ |w|·sx/2 + |x|·sw/2 + sx·sw/4, where sx is the step of the row (its largest
    value / STEPS) and sw that of the channel: half a step for each factor.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        sums: Callable[[torch.Tensor, torch.Tensor], Sums],
    ) -> None:
        """Quantise `weight` [N, K], channel by channel."""
        values, step = quantised(weight)
        self._sums = sums(values, step / STEPS)  # the rows' STEPS too, which saves an operation a call
        self._bias = None if bias is None else bias.float()
        # tensors: a Python number takes as long as the operation that it is for
        self._steps, self._zero = torch.tensor(float(STEPS)), torch.tensor(ZERO, dtype=torch.uint8)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Quantise the rows of x, multiply, and scale back."""
        largest = x.abs().amax(1, keepdim=True).float().clamp_min_(_SMALLEST)
        signed = x.mul(self._steps / largest).round_().to(torch.int8)
        # To turn a signed byte's top bit over is to add ZERO; torch is slow in turning floats into bytes without sign.
        y = self._sums(signed.view(torch.uint8).bitwise_xor_(self._zero)).mul_(largest)
        return (y if self._bias is None else y.add_(self._bias)).to(x.dtype)


class CompiledInt8Product:
    """The same, bit for bit, in compiled code: one pass over the rows, one over the weight."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Quantise `weight` [N, K], channel by channel."""
        values, step = quantised(weight)
        self._layer = Int8Layer(values, step / STEPS, bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply."""
        return self._layer(x.float()).to(x.dtype)


def quantised(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (int8 [N, K], step float32 [N]): each channel of `weight` in steps of its own."""
    largest = torch.maximum(weight.amax(1), weight.amin(1).neg_())
    step = largest.float().clamp_min_(_SMALLEST) / STEPS
    values = torch.empty(weight.shape, dtype=torch.int8)
    for first in range(0, len(weight), _BLOCK):
        here = slice(first, first + _BLOCK)
        values[here] = (weight[here] / step[here, None]).round_()
    return values, step
