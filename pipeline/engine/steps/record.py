"""Keeps the statistics of running sequences in the host's memory until their completions are made."""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.engine.layers.stats import Values
from pipeline.engine.sequence import Sequence

Array = NDArray[Any]
_PART_BYTES = 256 << 20
"""Most bytes of an array. A column for the whole context is rarely larger, and its memory is taken as it is written; but with
hundreds of alternatives per position and a long context it could exceed all memory."""


class Record:
    """Arrays with one row per slot for each column of the statistics: one for the whole context, or several for parts of it.

    Args:
        slots: Number of slots.
        max_len: Most tokens that a sequence generates.
    """

    def __init__(self, slots: int, max_len: int) -> None:
        """Start empty."""
        self._slots, self._max_len = slots, max_len
        self._values: dict[str, list[Array]] = {}
        self._prompt: dict[int, list[torch.Tensor]] = {}
        self._scores: dict[int, list[Values]] = {}

    def add(self, sequences: Seq[Sequence], rows: Seq[int], values: Values) -> None:
        """Keep a step's statistics at the position of each sequence's next token, which is not in `generated` yet.

        Args:
            sequences: Some of the step's sequences.
            rows: Their rows in the step.
            values: The statistics of the step's B sequences, [B, …] each.
        """
        if not rows:
            return
        slots, positions = (np.array(n) for n in zip(*[(s.slot, len(s.generated)) for s in sequences], strict=True))
        low, high = int(positions.min()), int(positions.max())
        for name, value in values.items():
            found = value.numpy()
            size = self._size(found)
            for number in range(low // size, high // size + 1):  # one, but for very many alternatives
                here = positions // size == number if high >= size else slice(None)
                part = self._part(name, number, (self._slots, size, *found.shape[1:]), found.dtype)
                part[slots[here], positions[here] % size] = found[rows][here]

    def _size(self, values: Array) -> int:
        """Return how many positions a part of a column of such values, [B, …], has."""
        position = self._slots * values.itemsize * math.prod(values.shape[1:])
        return min(self._max_len, max(1, _PART_BYTES // position))

    def _part(self, name: str, number: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return a part of a column; it is made when it is first needed."""
        parts = self._values.setdefault(name, [])
        while len(parts) <= number:
            parts.append(np.zeros(shape, dtype))
        return parts[number]

    def add_prompt(self, logprobs: Seq[tuple[Sequence, torch.Tensor]]) -> None:
        """Keep log-probabilities of prompt tokens, in order; the first token of a prompt has NaN."""
        for sequence, found in logprobs:
            self._prompt.setdefault(sequence.slot, [torch.full((1,), torch.nan)]).append(found)

    def add_scores(self, sequence: Sequence, values: Values) -> None:
        """Keep the statistics of scored tokens, [N, …] per column, in order."""
        self._scores.setdefault(sequence.slot, []).append(values)

    def scores(self, sequence: Sequence) -> dict[str, Array]:
        """Return the statistics of a sequence's scored tokens."""
        found = self._scores.get(sequence.slot, [])
        return {name: torch.cat([values[name] for values in found]).numpy() for name in (found[0] if found else ())}

    def of(self, sequence: Sequence) -> tuple[dict[str, Array], Array | None]:
        """Return copies of a sequence's statistics, and of its prompt's log-probabilities if there are any."""
        slot, count = sequence.slot, len(sequence.generated)
        prompt = self._prompt.get(slot)
        statistics = {name: _joined([part[slot] for part in parts], count) for name, parts in self._values.items()}
        return statistics, None if prompt is None else torch.cat(prompt).numpy()

    def forget(self, sequence: Sequence) -> None:
        """Forget what a slot's next sequence would not overwrite."""
        self._prompt.pop(sequence.slot, None)
        self._scores.pop(sequence.slot, None)

    def clear(self) -> None:
        """Forget all sequences."""
        self._prompt.clear()
        self._scores.clear()


def _joined(parts: Seq[Array], count: int) -> Array:
    """Return a copy of the first `count` values of parts of equal lengths."""
    size = len(parts[0])
    return np.concatenate([part[: count - at] for at, part in zip(range(0, max(1, count), size), parts, strict=False)])
