"""The KV cache: for every layer, keys and values in blocks of positions that any sequence may use.

Keys of a block lie element by element, [head, element, position], as the scores of many positions are then one vector;
values position by position. In 8 bits each position and head has a scale for its key and one for its value, in float32, after
the block's other rows. Memory is taken page by page as blocks are first written, or before that when it is asked for, and kept.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.engine.cache.block_pool import BLOCK
from pipeline.engine.device import upload

_POPULATE_WRITE = 23
"""`MADV_POPULATE_WRITE` of Linux 5.14, which Python has no name for."""
LANES = 16
"""Values are padded to whole vectors of this many elements."""


def padded(head_dim: int) -> int:
    """Elements that a head's values take."""
    return -(-head_dim // LANES) * LANES


_SCALES = BLOCK * 4
"""Bytes of a block's scales for a head."""
STEPS = 127
"""Steps from zero to the largest element of a position and head, in 8 bits."""


def side_shapes(kv_heads: int, head_dim: int, dtype: torch.dtype) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return (shape of a block's keys, shape of its values); in 8 bits with rows that hold the scales."""
    width = padded(head_dim)
    more = (_SCALES // BLOCK, -(-_SCALES // width)) if dtype == torch.int8 else (0, 0)
    return (kv_heads, head_dim + more[0], BLOCK), (kv_heads, BLOCK + more[1], width)


def key_scales(keys: torch.Tensor) -> torch.Tensor:
    """The scales of 8-bit keys, a view: [blocks, kv_heads, BLOCK]."""
    return keys[:, :, -(_SCALES // BLOCK) :].flatten(2).view(torch.float32)


def value_scales(values: torch.Tensor) -> torch.Tensor:
    """The scales of 8-bit values, a view: [blocks, kv_heads, BLOCK]."""
    return values[:, :, BLOCK:].flatten(2)[..., :_SCALES].view(torch.float32)


def in_steps(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise [..., D] of float32, as the compiled kernel does it.

    Returns:
        (int8 [..., D], scale [...]: no number where something is not finite).
    """
    largest = x.abs().amax(-1).clamp_min(1e-12)
    strange = (x * 0).sum(-1)
    factor = torch.where(strange == 0, STEPS / largest, 0)
    return (x * factor[..., None]).nan_to_num_(0).round_().to(torch.int8), largest / STEPS + strange


def block_bytes(layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Bytes of one block in all layers."""
    return layers * sum(map(math.prod, side_shapes(kv_heads, head_dim, dtype))) * dtype.itemsize


_TOGETHER = 32
"""Blocks that are copied at once: what is copied is held twice meanwhile."""


class KVCache:
    """Keys and values of `blocks` blocks in every layer.

    Attributes:
        keys: For each layer [blocks, kv_heads, head_dim, BLOCK], and the scales; see `side_shapes`.
        values: For each layer [blocks, kv_heads, BLOCK, padded head_dim], likewise.
    """

    def __init__(
        self, layers: int, blocks: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Take the address space; memory follows use."""
        self.blocks, self.head_dim, self.dtype, self.device = blocks, head_dim, dtype, device
        self._maps: list[mmap.mmap] = []
        key, value = side_shapes(kv_heads, head_dim, dtype)
        self._sides = [self._zeros(layers, blocks, *side) for side in (key, value)]
        self.keys, self.values = (list(side.unbind(0)) for side in self._sides)

    def take(self, blocks: int) -> None:
        """Take the memory of the first blocks now, where the system can: page by page it would slow down the steps."""
        for area in self._maps:
            layer = len(area) // len(self.keys)
            size = layer // self.blocks * min(blocks, self.blocks)
            for start in range(0, len(area), layer):
                first = start // mmap.PAGESIZE * mmap.PAGESIZE
                with contextlib.suppress(OSError):
                    area.madvise(_POPULATE_WRITE, first, start + size - first)

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy blocks in every layer; no target is a source."""
        for first in range(0, len(sources), _TOGETHER):
            few = slice(first, first + _TOGETHER)
            taken, given = (upload(blocks[few], np.int64, self.device) for blocks in (sources, targets))
            for side in self._sides:
                side[:, given] = side[:, taken]

    def _zeros(self, *shape: int) -> torch.Tensor:
        """Zeros whose memory is taken page by page as they are written; `torch.zeros` would occupy every page."""
        if self.device.type != "cpu":
            return torch.zeros(shape, dtype=self.dtype, device=self.device)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._maps.append(mmap.mmap(-1, math.prod(shape) * self.dtype.itemsize, flags=flags))
        # a kernel or a system without huge pages; with them there are fewer page faults
        with contextlib.suppress(OSError, AttributeError):
            self._maps[-1].madvise(mmap.MADV_HUGEPAGE)
        return torch.frombuffer(self._maps[-1], dtype=self.dtype).view(shape)
