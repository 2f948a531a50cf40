"""Keeps the statistics of running sequences in the host's memory until their completions are made."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.engine.layers.stats import Values
from pipeline.engine.sequence import Sequence

Array = NDArray[Any]


class Record:
    """One array per column of the statistics, with one row per slot.

    Args:
        slots: Number of slots.
        max_len: Most tokens that a sequence generates.
    """

    def __init__(self, slots: int, max_len: int) -> None:
        """Start empty."""
        self._shape = slots, max_len
        self._values: dict[str, Array] = {}
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
        for name, value in values.items():
            found = value.numpy()
            if name not in self._values:
                self._values[name] = np.zeros((*self._shape, *found.shape[1:]), found.dtype)
            self._values[name][slots, positions] = found[rows]

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
        statistics = {name: value[slot, :count].copy() for name, value in self._values.items()}
        return statistics, None if prompt is None else torch.cat(prompt).numpy()

    def forget(self, sequence: Sequence) -> None:
        """Forget what a slot's next sequence would not overwrite."""
        self._prompt.pop(sequence.slot, None)
        self._scores.pop(sequence.slot, None)

    def clear(self) -> None:
        """Forget all sequences."""
        self._prompt.clear()
        self._scores.clear()
