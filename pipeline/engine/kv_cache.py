"""The slot KV cache: a fixed place a sequence, written in place and never moved or copied.

It does not know sequences or scheduling; a slot is a number.
"""

from __future__ import annotations

import math
import mmap

import torch


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros whose memory is taken page by page as slots are used, not all at once.

    On a CPU an anonymous mapping gives untouched zero pages; `torch.zeros` would write, and so occupy, every one of them.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.frombuffer(mmap.mmap(-1, math.prod(shape) * dtype.itemsize), dtype=dtype).view(shape)


class LayerCache:
    """Keys and values of one layer, each [slots, heads, max_len, head_dim].

    A sequence's keys lie together head by head, which is how attention reads them.
    """

    def __init__(self, slots: int, heads: int, max_len: int, head_dim: int, dtype: torch.dtype, device: torch.device):
        """Take the address space; memory follows use."""
        shape = (slots, heads, max_len, head_dim)
        self.keys = _zeros(shape, dtype, device)
        self.values = _zeros(shape, dtype, device)
        self._views: dict[int, tuple[int, torch.Tensor, torch.Tensor]] = {}

    def write(self, rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put keys and values [T, heads, head_dim] at the flat `rows` [T · heads] of `KVCache.rows`."""
        for cache, new in ((self.keys, keys), (self.values, values)):
            cache.view(-1, cache.shape[-1]).index_copy_(0, rows, new.reshape(-1, new.shape[-1]))

    def view(self, slot: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys [heads, head_dim, length] (transposed) and values [heads, length, head_dim] of a slot's start.

        Views are kept: making two of them a sequence, layer and step would cost as much as a small product.
        """
        known = self._views.get(slot)
        if known is None or known[0] != length:
            known = (length, self.keys[slot, :, :length].transpose(-1, -2), self.values[slot, :, :length])
            self._views[slot] = known
        return known[1], known[2]


class KVCache:
    """One `LayerCache` a layer."""

    def __init__(self, layers: int, slots: int, heads: int, max_len: int, head_dim: int, dtype: torch.dtype,
                 device: torch.device):  # fmt: skip
        """Make every layer's cache."""
        self.slots, self.max_len, self._heads = slots, max_len, torch.arange(heads, device=device)
        self.layers = [LayerCache(slots, heads, max_len, head_dim, dtype, device) for _ in range(layers)]

    def rows(self, slots: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Flat row numbers [T · heads] of (slot, position) pairs [T], the same in every layer."""
        heads = slots[:, None] * len(self._heads) + self._heads
        return (heads * self.max_len + positions[:, None]).reshape(-1)

    def clear(self, slot: int) -> None:
        """Zero a slot: non-finite values left behind would reach the next sequence as 0 · NaN."""
        for layer in self.layers:
            layer.keys[slot].zero_()
            layer.values[slot].zero_()
