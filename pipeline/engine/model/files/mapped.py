"""Releases the pages of an mmapped weight file after a weight has been read from it.

Resident pages of an mmap count as this process's memory, although the system could drop them. Without the release, the peak
while loading would be twice the weights.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import torch

_SUFFIX = b".safetensors"


def mapped_ranges(maps: Path = Path("/proc/self/maps")) -> list[tuple[int, int]]:
    """Return the address ranges in which weight files are mapped; none if the system does not say."""
    try:
        lines = maps.read_bytes().splitlines()  # a file's name need not be text
    except OSError:
        return []
    spans = [line.split(maxsplit=1)[0].split(b"-") for line in lines if line.rstrip().endswith(_SUFFIX)]
    return [(int(start, 16), int(stop, 16)) for start, stop in spans]


def forget(weight: torch.Tensor, ranges: list[tuple[int, int]]) -> None:
    """Drop a weight's whole pages if they lie in `ranges`; the next access reads them from the file again.

    Memory that is not backed by a file is left alone: there, the same call would erase it.
    """
    first = weight.data_ptr()
    last = first + weight.numel() * weight.element_size()
    start, stop = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE, last // mmap.PAGESIZE * mmap.PAGESIZE
    if stop > start and any(low <= start and stop <= high for low, high in ranges):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), mmap.MADV_DONTNEED)
