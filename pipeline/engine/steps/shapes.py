"""Packs steps into arrays of a few fixed shapes, which a CUDA graph reads at every replay.

A step of any size goes into the next larger shape; the rest of the shape is idle.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.engine import sequence as engine
from pipeline.engine.cache.block_pool import blocks_for
from pipeline.engine.scheduler import Step

TOKENS_A_CHUNK = 8
"""A shape has space for one chunk per this many tokens."""
LARGE = 256
"""Rows beyond which a few more cost little compared to recording another shape."""
IDLE = -1
"""The position of an idle token, which belongs to no sequence."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that are fixed when a step is recorded.

    Attributes:
        tokens: Tokens of all sequences, T.
        chunks: Chunks of prompts, C; 0 if all sequences decode.
        choosing: Rows that choose a token, B.
        splits: Parts of a sequence's blocks that different programs of the attention kernel read.
    """

    tokens: int
    chunks: int
    choosing: int
    splits: int


def rounded(count: int, unit: int) -> int:
    """Round up to a multiple of `unit`, of LARGE beyond it, and of an eighth of the power of two below: few shapes."""
    grain = max(unit if count <= LARGE else max(unit, LARGE), (1 << (max(1, count).bit_length() - 1)) // 8)
    return -(-max(1, count) // grain) * grain


def whole_splits(blocks: int, split: int) -> int:
    """Return the number of parts of `split` blocks, rounded up to a power of two, so that there are few shapes."""
    return 1 << (-(-blocks // split) - 1).bit_length()


def shape_of(step: Step, unit: int, split: int) -> Shape:
    """Return the shape for a step.

    Args:
        step: The step.
        unit: The model's matrix products have a multiple of this many rows.
        split: Blocks of a sequence that one program reads.
    """
    chunks = len(step.chunks)
    tokens = rounded(max(len(step.decodes) + sum(c.length for c in step.chunks), chunks * TOKENS_A_CHUNK), unit)
    longest = max((blocks_for(s.position + 1) for s in step.decodes), default=1)
    return Shape(
        tokens,
        tokens // TOKENS_A_CHUNK if chunks else 0,
        rounded(len(step.choosing), unit) if step.choosing else 0,
        whole_splits(longest, split),
    )


class Fields:
    """The layout of the one integer array that describes a step's tokens.

    Args:
        shape: The shape.

    Attributes:
        size: Length of the array.
        slots: Slot of each token, [T].
        positions: Position of each token, or IDLE, [T].
        decodes: How many of the first tokens decode, [1].
        chunks: First token, length (0: none), start position and slot of each chunk, [C, 4].
        keep: Tokens whose logits are needed, [B].
    """

    def __init__(self, shape: Shape) -> None:
        """Compute the slices."""
        sizes = [shape.tokens, shape.tokens, 1, 4 * shape.chunks, shape.choosing]
        ends = np.cumsum(sizes).tolist()
        self.size: int = ends[-1]
        self.slots, self.positions, self.decodes, self.chunks, self.keep = (
            slice(end - size, end) for end, size in zip(ends, sizes, strict=True)
        )


def pack_tokens(step: Step, shape: Shape, idle: int) -> NDArray[np.int32]:
    """Describe a step's tokens in the layout of `Fields`.

    Args:
        step: The step.
        shape: A shape that it fits into.
        idle: The idle slot.
    """
    fields = Fields(shape)
    packed = np.zeros(fields.size, np.int32)
    slots, positions = [s.slot for s in step.decodes], [s.position for s in step.decodes]
    chunks, ends, keep = list[int](), dict[int, int](), list(range(len(slots)))
    for chunk in step.chunks:
        slot, first = chunk.sequence.slot, len(slots)
        chunks += (first, chunk.length, chunk.start, slot)
        slots += [slot] * chunk.length
        positions += range(chunk.start, chunk.start + chunk.length)
        if chunk.last and not chunk.sequence.scored:
            ends[slot] = len(slots) - 1
            keep.append(ends[slot])
    keep += [ends[twin.leader.slot] for twin in step.twins]
    _put(packed[fields.slots], slots, idle)
    _put(packed[fields.positions], positions, IDLE)
    packed[fields.decodes] = len(step.decodes)
    _put(packed[fields.chunks], chunks, 0)
    _put(packed[fields.keep], keep, 0)
    return packed


def pack_rows(sequences: Sequence[engine.Sequence], rows: int, idle: int) -> NDArray[np.int32]:
    """Describe the rows that choose tokens.

    Args:
        sequences: Their sequences, in order.
        rows: B, at least the number of sequences.
        idle: The idle slot.

    Returns:
        [3, B]: the slots, how many tokens each has generated, and where in its slot its token goes.
    """
    packed = np.zeros((3, rows), np.int32)
    _put(packed[0], (s.slot for s in sequences), idle)
    _put(packed[1], (s.asked for s in sequences), 0)
    _put(packed[2], (s.prompt_len + s.asked for s in sequences), 0)
    return packed


def _put(part: NDArray[np.int32], numbers: Iterable[int], rest: int) -> None:
    """Fill a slice with numbers, and its remainder with `rest`."""
    found = np.fromiter(numbers, np.int32)
    part[: len(found)], part[len(found) :] = found, rest
