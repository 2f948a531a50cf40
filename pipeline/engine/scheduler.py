"""Waiting and running sequences → the next step: who decodes, and which prompts advance by a chunk.

It knows no tensors and no model. Nothing it decides changes any output byte; it decides only how soon.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Prompt positions `start` to `start + length` of a sequence, computed in one step."""

    sequence: Sequence
    start: int
    length: int

    @property
    def last(self) -> bool:
        """Whether it ends the prompt, so that its last position gives the first token."""
        return self.start + self.length == self.sequence.prompt_len


@dataclass(frozen=True, slots=True)
class Step:
    """The work of one step: a token for each decoding sequence, and chunks of prompts."""

    decodes: list[Sequence]
    chunks: list[Chunk]


class Scheduler:
    """Continuous batching: a sequence is admitted the moment a slot is free.

    Args:
        slots: Sequences that can run at once.
        max_batched_tokens: Bound on the tokens of a step, so that long prompts do not stall the decoding ones; a step
            with prompts to read always takes at least one chunk.
    """

    def __init__(self, slots: int, max_batched_tokens: int) -> None:
        """Start with every slot free."""
        self._free = list(range(slots))  # a heap: low slots first keeps the live ones together
        self._waiting: deque[Sequence] = deque()
        self._max_batched_tokens = max_batched_tokens
        self.running: dict[int, Sequence] = {}  # slot → sequence, in the order of admission

    @property
    def waiting(self) -> int:
        """Sequences without a slot."""
        return len(self._waiting)

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Queue sequences, the longest first, behind those of earlier calls.

        A long completion that starts last would run alone at the end, when a step costs almost as much as a full one.
        """
        self._waiting.extend(sorted(sequences, key=lambda s: -(s.prompt_len + s.max_new)))

    def schedule(self) -> tuple[list[Sequence], Step]:
        """Admit what fits and return (newly admitted sequences, the next step)."""
        admitted = []
        while self._free and self._waiting:
            sequence = self._waiting.popleft()
            sequence.slot = heapq.heappop(self._free)
            self.running[sequence.slot] = sequence
            admitted.append(sequence)
        decodes = [self.running[slot] for slot in sorted(self.running) if self.running[slot].decoding]
        # in the order of admission: by slot, a low one that is refilled again and again would keep the others waiting
        reading = [s for s in self.running.values() if not s.decoding]
        chunks: list[Chunk] = []
        budget = self._max_batched_tokens - len(decodes)
        for sequence in reading:
            position = sequence.prefilled
            while position < sequence.prompt_len:
                length = min(sequence.next_chunk(), sequence.prompt_len - position)
                if chunks and length > budget:
                    break
                chunks.append(Chunk(sequence, position, length))
                sequence.prefilled = position = position + length
                budget -= length
        return admitted, Step(decodes, chunks)

    def release(self, sequence: Sequence) -> None:
        """Give a finished sequence's slot back."""
        del self.running[sequence.slot]
        heapq.heappush(self._free, sequence.slot)
        sequence.slot = -1
