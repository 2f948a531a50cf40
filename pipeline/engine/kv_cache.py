"""The KV cache: a place for each sequence, written in place, in classes of sequences of similar length.

A decoding step reads the keys and values of every live sequence; what limits it is memory traffic and the number of calls.
Sequences of one length class lie side by side, so one batched product serves them all and reads little that is not live.
A sequence that outgrows its class is copied to the next one, a few times in its life. The class is a function of the
sequence's own length: neighbours do not change the shape of its products.

It does not know sequences or scheduling; a slot is a number.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import mmap
from dataclasses import dataclass

import torch

SMALLEST = 64
"""Positions of the smallest length class; a multiple of the prefill chunk."""


def length_classes(max_len: int) -> list[int]:
    """Capacities: 64, 96, 128, 192, 256, 384, … up to the first that holds `max_len`. A third is wasted at most."""
    sizes = itertools.chain.from_iterable((SMALLEST << k, (SMALLEST + SMALLEST // 2) << k) for k in itertools.count())
    classes = []
    for size in sizes:
        classes.append(size)
        if size >= max_len:
            return classes
    raise AssertionError("count() does not end")


class LayerCache:
    """Keys and values of one layer: flat [rows, head_dim], and for each class a view [slots, heads, capacity, head_dim]."""

    def __init__(self, shapes: list[tuple[int, int, int]], head_dim: int, dtype: torch.dtype, device: torch.device):
        """Take the address space; memory follows use."""
        sizes = [math.prod(shape) for shape in shapes]
        self._maps: list[mmap.mmap] = []
        self._flat = [self._zeros((sum(sizes), head_dim), dtype, device) for _ in range(2)]
        self.keys, self.values = (
            [part.view(*shape, head_dim) for part, shape in zip(flat.split(sizes), shapes, strict=True)]  # type: ignore[no-untyped-call]
            for flat in self._flat
        )

    def _zeros(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Zeros whose memory is taken page by page as they are written; `torch.zeros` would occupy every page."""
        if device.type != "cpu":
            return torch.zeros(shape, dtype=dtype, device=device)
        # private: pages of a shared mapping, Python's default, stay with the system when they are given back
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._maps.append(mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=flags))
        with contextlib.suppress(OSError):  # a kernel without huge pages; with them there are fewer page faults
            self._maps[-1].madvise(mmap.MADV_HUGEPAGE)
        return torch.frombuffer(self._maps[-1], dtype=dtype).view(shape)

    def write(self, rows: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put keys and values [T, heads, head_dim] at the flat `rows` [T · heads]."""
        for flat, new in zip(self._flat, (keys, values), strict=True):
            flat.index_copy_(0, rows, new.reshape(-1, new.shape[-1]))

    def copy(self, source: tuple[int, int], target: tuple[int, int], length: int) -> None:
        """Copy the first `length` positions from one (class, row) to another."""
        for side in (self.keys, self.values):
            side[target[0]][target[1], :, :length] = side[source[0]][source[1], :, :length]

    def clear(self, place: tuple[int, int]) -> None:
        """Zero a row."""
        for side in (self.keys, self.values):
            side[place[0]][place[1]].zero_()

    def give_back(self, first: int, last: int) -> None:
        """Return the whole pages of the flat rows `first` to `last` to the system; they read as zeros again."""
        for flat, pages in zip(self._flat, self._maps, strict=False):
            size = flat.shape[1] * flat.element_size()
            start, stop = (
                -(-first * size // mmap.PAGESIZE) * mmap.PAGESIZE,
                last * size // mmap.PAGESIZE * mmap.PAGESIZE,
            )
            if stop > start:
                pages.madvise(mmap.MADV_DONTNEED, start, stop - start)


@dataclass(slots=True)
class _Class:
    """One length class: its capacity, which slot is in which row, and how many rows were ever written."""

    capacity: int
    free: list[int]
    rows: dict[int, int]
    touched: int = 0

    @property
    def high(self) -> int:
        """Rows up to the last live one."""
        return max(self.rows.values(), default=-1) + 1


class KVCache:
    """Places for `slots` sequences of up to `max_len` tokens in every layer.

    Every class could hold all slots, in address space. Memory is bounded by what `slots` longest sequences would take:
    beyond that, rows that are no longer used are given back to the system.
    """

    def __init__(
        self, layers: int, slots: int, heads: int, max_len: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Make every layer's cache."""
        self.slots, self.max_len, self._device = slots, max_len, device
        self._heads = torch.arange(heads, device=device)
        sizes = length_classes(max_len) if device.type == "cpu" else [-(-max_len // SMALLEST) * SMALLEST]
        self.classes = [_Class(size, list(range(slots)), {}) for size in sizes]
        shapes = [(slots, heads, size) for size in sizes]
        self._offsets = [0, *itertools.accumulate(math.prod(shape) for shape in shapes)]
        self._place: dict[int, int] = {}
        self.layers = [LayerCache(shapes, head_dim, dtype, device) for _ in range(layers)]

    def place(self, slot: int) -> tuple[int, int]:
        """The (class, row) of a slot."""
        number = self._place[slot]
        return number, self.classes[number].rows[slot]

    def reserve(self, slot: int, length: int) -> None:
        """Make room for `length` positions, moving the sequence to a larger class if it has to."""
        number = self._place.get(slot)
        if number is not None and self.classes[number].capacity >= length:
            return
        larger = next(i for i, c in enumerate(self.classes) if c.capacity >= length)
        row = self._take(slot, larger)
        if number is not None:
            old = self.classes[number]
            for layer in self.layers:
                layer.copy((number, old.rows[slot]), (larger, row), old.capacity)
            self._leave(slot, number)
        self._place[slot] = larger

    def release(self, slot: int, *, clear: bool = False) -> None:
        """Give a slot's place back. `clear` zeroes it: non-finite values left there would reach its next user as 0 · NaN."""
        number = self._place.pop(slot, None)
        if number is None:
            return
        if clear:
            for layer in self.layers:
                layer.clear((number, self.classes[number].rows[slot]))
        self._leave(slot, number)

    def compact(self) -> None:
        """Move a class's last row into a hole where less than half of its span is live, so that few dead rows are read."""
        for number, group in enumerate(self.classes):
            high = group.high
            if high <= 2 * len(group.rows):
                continue
            slot = next(s for s, r in group.rows.items() if r == high - 1)
            row = heapq.heappop(group.free)
            for layer in self.layers:
                layer.copy((number, high - 1), (number, row), group.capacity)
                layer.clear((number, high - 1))  # a prompt that is half read may hold non-finite values; see `release`
            group.rows[slot] = row
            heapq.heappush(group.free, high - 1)

    def flat_rows(self, slots: list[int], positions: torch.Tensor) -> torch.Tensor:
        """Flat row numbers [T · heads] of (slot, position) pairs [T], the same in every layer."""
        places = [self.place(slot) for slot in slots]
        heads = len(self._heads)
        first = [self._offsets[n] + row * heads * self.classes[n].capacity for n, row in places]
        capacity = torch.tensor([self.classes[n].capacity for n, _ in places], device=self._device)
        starts = torch.tensor(first, device=self._device)[:, None] + self._heads * capacity[:, None]
        return (starts + positions[:, None]).reshape(-1)

    def _take(self, slot: int, number: int) -> int:
        group = self.classes[number]
        row = group.rows[slot] = heapq.heappop(group.free)
        if row >= group.touched:
            group.touched = row + 1
            self._trim()
        return row

    def _leave(self, slot: int, number: int) -> None:
        group = self.classes[number]
        heapq.heappush(group.free, group.rows.pop(slot))

    def _trim(self) -> None:
        """Give the rows above the live ones back, when what was ever written exceeds what was planned for."""
        if sum(c.touched * c.capacity for c in self.classes) <= self.slots * self.classes[-1].capacity:
            return
        for number, group in enumerate(self.classes):
            unit, high = len(self._heads) * group.capacity, group.high
            if group.touched > high:
                first = self._offsets[number] + high * unit
                for layer in self.layers:
                    layer.give_back(first, self._offsets[number] + group.touched * unit)
                group.touched = high
