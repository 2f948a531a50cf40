"""Random weights and biases that replace a model's in checks, so that results do not depend on the model's values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

DISTINCT = 251
"""Channels of a drawn weight before they repeat: to draw them all would take longer than to check. It is prime, so that no
block of channels is another's copy."""
_SLICE, _ODD = 1024, 64


@dataclass(frozen=True, slots=True)
class DrawnLayer:
    """The properties that a random layer shares with the layers that it replaces in checks.

    Attributes:
        channels: Output channels.
        width: The inner dimension.
        dtype: Type of the weight.
        bias: Type of the bias; None: there is none.
        turned: Whether a channel's elements are not contiguous, as in GPT-2's files.
    """

    channels: int
    width: int
    dtype: torch.dtype
    bias: torch.dtype | None
    turned: bool

    @classmethod
    def like(
        cls, weight: torch.Tensor, bias: torch.Tensor | None, *, turned: bool = True, sliced: bool = False
    ) -> DrawnLayer:
        """Return the properties of a weight [N, K] and a bias [N].

        Args:
            weight: The weight.
            bias: Its bias.
            turned: Keep strides other than a row's.
            sliced: Take a slice of the channels, as odd in number as all are; the inner dimension is always whole.
        """
        channels, width = weight.shape
        if sliced and channels > _SLICE + _ODD:
            channels = _SLICE + channels % _ODD
        kind = None if bias is None else bias.dtype
        return cls(channels, width, weight.dtype, kind, turned and not weight.is_contiguous())

    def __str__(self) -> str:
        """The key under which a verdict is cached."""
        types = [str(kind).removeprefix("torch.") for kind in (self.dtype, self.bias)]
        return f"{self.channels}x{self.width} {types[0]} bias {types[1]} {'turned' if self.turned else 'straight'}"

    def draw(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return (weight [N, K], bias [N] or None), the same each time; channel i is channel i % DISTINCT again.

        All elements of the first two have one magnitude: rows with their signs give the largest sums, exact in float32.
        """
        draw = torch.Generator().manual_seed(1)
        distinct = torch.randn(min(self.channels, DISTINCT), self.width, generator=draw) / math.sqrt(self.width)
        size = 2.0 ** -round(math.log2(self.width) / 2)
        distinct[0] = torch.where(distinct[0] < 0, -size, size)
        distinct[1:2] = size
        times = -(-self.channels // len(distinct))
        weight = distinct.to(self.dtype).repeat(times, 1)[: self.channels]
        if self.turned:
            weight = weight.t().contiguous().t()
        if self.bias is None:
            return weight, None
        bias = torch.randn(len(distinct), generator=draw).to(self.bias)
        return weight, bias.repeat(times)[: self.channels]
