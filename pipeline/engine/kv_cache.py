"""The KV cache: for every layer, keys and values in blocks of positions that any sequence may use.

Keys of a block lie element by element, [head, element, position], as the scores of many positions are then one vector;
values position by position. Memory is taken page by page as blocks are first written, or before that when it is asked for,
and kept.

It does not know which block is whose; see `block_pool`.
"""

from __future__ import annotations

import contextlib
import math
import mmap

import torch

from pipeline.engine.block_pool import BLOCK

_POPULATE_WRITE = 23
"""`MADV_POPULATE_WRITE` of Linux 5.14, which Python has no name for."""
LANES = 16
"""Values are padded to whole vectors of this many elements."""


def padded(head_dim: int) -> int:
    """Elements that a head's values take."""
    return -(-head_dim // LANES) * LANES


def block_bytes(layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Bytes of one block in all layers."""
    return layers * kv_heads * BLOCK * (head_dim + padded(head_dim)) * dtype.itemsize


class KVCache:
    """Keys and values of `blocks` blocks in every layer.

    Attributes:
        keys: For each layer [blocks, kv_heads, head_dim, BLOCK].
        values: For each layer [blocks, kv_heads, BLOCK, padded head_dim].
    """

    def __init__(
        self, layers: int, blocks: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Take the address space; memory follows use."""
        self.blocks, self.head_dim, self.dtype, self.device = blocks, head_dim, dtype, device
        self._maps: list[mmap.mmap] = []
        self.keys = [self._zeros(blocks, kv_heads, head_dim, BLOCK) for _ in range(layers)]
        self.values = [self._zeros(blocks, kv_heads, BLOCK, padded(head_dim)) for _ in range(layers)]

    def take(self, blocks: int) -> None:
        """Take the memory of the first blocks now, where the system can: page by page it would slow down the steps."""
        for area in self._maps:
            with contextlib.suppress(OSError):
                area.madvise(_POPULATE_WRITE, 0, len(area) // self.blocks * min(blocks, self.blocks))

    def copy(self, source: int, target: int) -> None:
        """Copy a block in every layer."""
        for side in (self.keys, self.values):
            for layer in side:
                layer[target] = layer[source]

    def _zeros(self, *shape: int) -> torch.Tensor:
        """Zeros whose memory is taken page by page as they are written; `torch.zeros` would occupy every page."""
        if self.device.type != "cpu":
            return torch.zeros(shape, dtype=self.dtype, device=self.device)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._maps.append(mmap.mmap(-1, math.prod(shape) * self.dtype.itemsize, flags=flags))
        with contextlib.suppress(OSError):  # a kernel without huge pages; with them there are fewer page faults
            self._maps[-1].madvise(mmap.MADV_HUGEPAGE)
        return torch.frombuffer(self._maps[-1], dtype=self.dtype).view(shape)
