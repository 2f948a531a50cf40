"""Elementwise functions and rotary tables that give a row the same bits in every batch.

Vectorised loops finish the last few elements of each thread's share with scalar code, whose exponentials and tangents
round differently. Where a share ends depends on the number of rows and threads; so either every share is made to end on a
whole vector, or the work is cut into pieces that one thread does. The compiled activations give each row to one thread.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.engine.native import library
from pipeline.engine.native.elementwise import activate, activation_kind

VECTOR = 64
"""A multiple of the elements that any kernel handles in one unrolled step."""
GRAIN = 32768
"""Least elements per thread in torch (`at::internal::GRAIN_SIZE`)."""
_SINGLE = 16384
"""Number of elements up to which no kernel uses several threads."""


class RowwiseActivation(nn.Module):
    """An activation function whose results for a row do not depend on the number of rows or threads."""

    def __init__(self, function: nn.Module) -> None:
        """Wrap `function`, which must be elementwise."""
        super().__init__()
        self.function = function
        self._compiled = activation_kind(function) if library() is not None else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the function; the shape stays."""
        if x.device.type != "cpu":
            return self.function(x)  # type: ignore[no-any-return]
        if self._compiled is not None and x.dtype == torch.float32:
            return activate(x, self._compiled)
        width = x.shape[-1]
        if width % VECTOR:
            return self.forward(F.pad(x, (0, -width % VECTOR)))[..., :width]
        threads = torch.get_num_threads()
        if threads <= 2 and x.numel() % (VECTOR * threads) == 0:
            return self.function(x)  # type: ignore[no-any-return]
        flat, whole = x.reshape(-1), threads * GRAIN
        split = flat.numel() - flat.numel() % whole
        pieces = [*flat[:split].split(whole), *flat[split:].split(_SINGLE)]  # type: ignore[no-untyped-call]
        return torch.cat([self.function(piece) for piece in pieces if piece.numel()]).view(x.shape)


class RotaryTable(nn.Module):
    """A rotary embedding read from a table of all positions, computed once: a single row's cosine rounds differently."""

    def __init__(self, rotary: nn.Module, max_len: int, like: torch.Tensor) -> None:
        """Tabulate `rotary` for positions 0 to max_len - 1 in the type and on the device of `like`."""
        super().__init__()
        # Blocks of one vector's positions are whole vectors and one thread's work, however many threads there are.
        positions = torch.arange(math.ceil(max_len / VECTOR) * VECTOR, device=like.device)
        blocks = [rotary(like, block[None]) for block in positions.split(VECTOR)]  # type: ignore[no-untyped-call]
        self.register_buffer("cos", torch.cat([cos[0] for cos, _ in blocks]), persistent=False)
        self.register_buffer("sin", torch.cat([sin[0] for _, sin in blocks]), persistent=False)

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor, **_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (cosines, sines), each [B, T, D], of the positions [B, T]."""
        return self.cos[position_ids], self.sin[position_ids]  # type: ignore[index]
