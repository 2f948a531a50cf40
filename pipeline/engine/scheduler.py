"""Waiting and running sequences → the next step: who decodes, which prompts advance, and who shares what with whom.

Nothing it decides changes any output byte; it decides only how soon.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.engine.cache.block_pool import BLOCK, BlockPool, prefix_digests
from pipeline.engine.sequence import Sequence

FEW = 16
"""Sequences below which a step costs nearly the same with fewer of them, as the weights have to be read: on a few cores."""


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
class Twin:
    """A sequence with the very prompt that `leader` ends in this step: it takes a copy of the last block and the logits."""

    sequence: Sequence
    leader: Sequence


@dataclass(frozen=True, slots=True)
class Step:
    """The work of one step: a token for each decoding sequence, chunks of prompts, and prompts that need no work."""

    decodes: list[Sequence]
    chunks: list[Chunk]
    twins: list[Twin]

    @property
    def choosing(self) -> list[Sequence]:
        """The sequences that choose a token, in the order of their logits, twins last."""
        return [*self.decodes, *(c.sequence for c in self.chunks if c.last), *(t.sequence for t in self.twins)]


class Scheduler:
    """Continuous batching: a sequence is admitted the moment there is a slot and blocks for all it may need.

    Args:
        slots: Sequences that can run at once.
        max_batched_tokens: Bound on the tokens of a step, so that long prompts do not stall the decoding ones; a step
            with prompts to read always takes at least one chunk.
        pool: The blocks of the cache.
        share: Whether prompts that begin alike share blocks.
        few: Sequences below which a step costs nearly the same with fewer of them.
        expected: Sequences that there will be, about; null: those that were added at any time are all.
        max_chunks: Bound on the chunks of a step; null: any number.
    """

    def __init__(
        self, slots: int, max_batched_tokens: int, pool: BlockPool, *, share: bool = True, few: int = FEW,
        expected: int | None = None, max_chunks: int | None = None,
    ) -> None:  # fmt: skip
        """Start with every slot free."""
        self._few, self._to_come, self._max_chunks = few, expected or 0, max_chunks
        self._free = list(range(slots))  # a heap
        self._waiting: deque[Sequence] = deque()
        self._max_batched_tokens, self._pool, self._share = max_batched_tokens, pool, share
        self._slots = self._most = slots
        self.running: dict[int, Sequence] = {}  # slot → sequence, in the order of admission

    @property
    def waiting(self) -> int:
        """Sequences without a slot."""
        return len(self._waiting)

    @property
    def most(self) -> int:
        """Sequences that may run at once: the slots, or fewer once memory was out."""
        return self._most

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Queue sequences, the longest first, behind those of earlier calls.

        A long completion that starts last would run alone at the end, when a step costs almost as much as a full one.
        """
        queue = sorted(sequences, key=lambda s: -(s.prompt_len + s.max_new))
        if self._share:
            known: dict[tuple[int, ...], tuple[bytes, ...]] = {}
            for sequence in queue:
                prompt = sequence.request.prompt_token_ids
                sequence.digests = known[prompt] = known.get(prompt) or prefix_digests(prompt)
                self._pool.want(sequence.digests)
        self._waiting.extend(queue)
        self._to_come -= len(queue)

    def schedule(self) -> tuple[list[Sequence], Step]:
        """Admit what fits and return (newly admitted sequences, the next step)."""
        admitted = []
        enough, last = self._enough(), self._last_end()
        while self._free and self._waiting and self._admits(enough, last) and self._reserve(self._waiting[0]):
            sequence = self._waiting.popleft()
            self._pool.unwant(sequence.digests)
            sequence.slot = heapq.heappop(self._free)
            self.running[sequence.slot] = sequence
            last = max(last, sequence.max_new)
            admitted.append(sequence)
        decodes = [self.running[slot] for slot in sorted(self.running) if self.running[slot].steppable]
        step = Step(decodes, [], [])
        budget = self._max_batched_tokens - len(decodes)
        leaders: dict[tuple[int, ...], Sequence] = {}
        # in the order of admission: by slot, a low one that is refilled again and again would keep the others waiting
        for sequence in [s for s in self.running.values() if not s.decoding]:
            budget = self._read(sequence, step, leaders, budget)
        return admitted, step

    def release(self, sequence: Sequence) -> None:
        """Give a finished sequence's slot and blocks back."""
        del self.running[sequence.slot]
        heapq.heappush(self._free, sequence.slot)
        # the last block first: what must be forgotten is forgotten from the end, as a beginning is of use without it
        self._pool.give_back(reversed(sequence.blocks))
        sequence.slot, sequence.blocks = -1, []

    def lower(self) -> bool:
        """Send all running sequences back to the start and let half as many run at once; false if only one was running."""
        running = list(self.running.values())
        self._most = max(1, len(running) // 2)
        for sequence in reversed(running):
            self.release(sequence)
            sequence.restart()
            self._waiting.appendleft(sequence)
            self._pool.want(sequence.digests)
        self._pool.forget_all()
        return len(running) > 1

    def _enough(self) -> int:
        """How many to run at the end, so that there is work for as many until the longest one ends.

        To run more would be no sooner done, and leave the end to a few, when a step costs almost as much as with many.
        """
        if not self._free or self._to_come > 0 or not 0 < len(self._waiting) <= 4 * self._slots:
            return self._slots  # nothing to decide, or more work than the longest one lasts
        known = [*self._waiting, *self.running.values()]
        tokens = sum(s.tokens_left for s in known)
        longest = max(s.max_new - len(s.generated) for s in known)
        return max(self._few, -(-tokens // longest))

    def _last_end(self) -> int:
        """Tokens that the running ones still generate, the one that most are left of."""
        if not self._free or not self._waiting:
            return 0  # nobody asks
        return max((s.max_new - len(s.generated) for s in self.running.values()), default=0)

    def _admits(self, enough: int, last: int) -> bool:
        """Whether the next one may start: there are not enough, or it would end last, and must not wait for others."""
        if len(self.running) >= self._most:
            return False
        return len(self.running) < enough or self._waiting[0].max_new >= last

    def _reserve(self, sequence: Sequence) -> bool:
        """Give a sequence all blocks that it may need: those that hold its prompt's beginning already, and fresh ones."""
        shared: list[int] = []
        for digest in sequence.digests:
            block = self._pool.share(digest)
            if block is None:
                break
            shared.append(block)
        fresh = sequence.blocks_needed - len(shared)
        if fresh > self._pool.available:
            self._pool.give_back(reversed(shared))
            return False
        sequence.blocks, sequence.prefilled = shared + self._pool.take(fresh), len(shared) * BLOCK
        return True

    def _read(self, sequence: Sequence, step: Step, leaders: dict[tuple[int, ...], Sequence], budget: int) -> int:
        """Advance a prompt by as many chunks as the budget allows and return what is left of it.

        What another sequence computed, or computes in this very step, costs nothing: in each layer a step writes all its
        keys and values before it reads any.
        """
        prompt = sequence.request.prompt_token_ids
        while not sequence.decoding:
            number, length = sequence.prefilled // BLOCK, sequence.next_chunk()
            digest = sequence.digests[number] if number < len(sequence.digests) else None
            block = self._pool.share(digest) if digest is not None else None
            if block is not None:
                self._pool.give_back([sequence.blocks[number]])
                sequence.blocks[number] = block
                sequence.prefilled += length
                continue
            last = sequence.prefilled + length == len(prompt)
            if last and self._share and prompt in leaders:
                step.twins.append(Twin(sequence, leaders[prompt]))
                sequence.prefilled += length
                break
            if step.chunks and (length > budget or len(step.chunks) == self._max_chunks):
                break
            if last:
                leaders[prompt] = sequence
            step.chunks.append(Chunk(sequence, sequence.prefilled, length))
            if digest is not None:
                self._pool.remember(sequence.blocks[number], digest)
            sequence.prefilled += length
            budget -= length
        return budget
