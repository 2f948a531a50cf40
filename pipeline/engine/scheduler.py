"""Decides which sequences decode and which prompts advance in the next step, and which of them share blocks.

Its decisions affect only the speed, never an output byte.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.engine.cache.block_pool import BLOCK, BlockPool, prefix_digests
from pipeline.engine.sequence import Sequence

FEW = 16
"""Batch size below which a step costs nearly the same, because reading the weights dominates; for a few cores."""

CORES_OF_FEW = 4
"""Number of cores that FEW sequences keep busy; more cores need more sequences."""


def few_for(threads: int) -> int:
    """Return the batch size below which a step of a CPU costs nearly the same, by its threads."""
    return FEW * max(1, threads // CORES_OF_FEW)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Prompt positions `start` to `start + length` of a sequence, computed in one step."""

    sequence: Sequence
    start: int
    length: int

    @property
    def last(self) -> bool:
        """Whether it ends the prompt: its last position then gives the first token."""
        return self.start + self.length == self.sequence.prompt_len

    @property
    def scored(self) -> range:
        """Its tokens, counted from `start`, after which a scored token comes."""
        first = self.sequence.request.scored_from
        return range(0) if first is None else range(max(0, first - 1 - self.start), self.length)


@dataclass(frozen=True, slots=True)
class Twin:
    """A sequence with the same prompt as `leader`, which ends it in this step.

    It gets a copy of the logits, and of the last block, unless the prompt fills that: then it shares the block.
    """

    sequence: Sequence
    leader: Sequence


@dataclass(frozen=True, slots=True)
class Step:
    """The work of one step: one token per decoding sequence, chunks of prompts, and twins, which need no work."""

    decodes: list[Sequence]
    chunks: list[Chunk]
    twins: list[Twin]

    @property
    def choosing(self) -> list[Sequence]:
        """The sequences that choose a token, in the order of their logits, twins last."""
        ending = (c.sequence for c in self.chunks if c.last and not c.sequence.scored)
        return [*self.decodes, *ending, *(t.sequence for t in self.twins)]

    @property
    def scores(self) -> bool:
        """Whether its sequences are scored."""
        return bool(self.chunks) and self.chunks[0].sequence.scored


class Scheduler:
    """Continuous batching: a sequence is admitted as soon as there are a slot and all the blocks that it may need.

    Args:
        slots: Sequences that can run at once.
        max_batched_tokens: Bound on the tokens of a step, so that long prompts do not stall decoding sequences. A
            step with prompts to read always takes at least one chunk.
        pool: The blocks of the cache.
        share: Whether prompts with a common beginning share blocks.
        few: Batch size below which a step costs nearly the same.
        expected: Approximate number of sequences in all; None: assume that no more come than were added.
        max_chunks: Bound on the chunks of a step; None: no bound.
        max_scored: Bound on the scored tokens of a step, whose logits it holds, unless one chunk has more; None: no bound.
    """

    def __init__(
        self, slots: int, max_batched_tokens: int, pool: BlockPool, *, share: bool = True, few: int = FEW,
        expected: int | None = None, max_chunks: int | None = None, max_scored: int | None = None,
    ) -> None:  # fmt: skip
        """Start with every slot free."""
        self._max_scored = max_scored
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
        """Most sequences that may run at once: the slots, or fewer after memory ran out."""
        return self._most

    def add(self, sequences: Iterable[Sequence]) -> None:
        """Queue sequences, the longest first, behind those of earlier calls; those that are scored stay in their order.

        A long completion that starts last would run alone at the end, and a step with one sequence costs almost as much as a
        full one. Scored sequences fill every step, and those with a common beginning are best read one after the other.
        """
        queue = sorted(sequences, key=lambda s: 0 if s.scored else -(s.prompt_len + s.max_new))
        if self._share:
            known: dict[tuple[int, ...], tuple[bytes, ...]] = {}
            for sequence in queue:
                # blocks hold no logits: a token that is followed by a scored one must be computed
                prompt = sequence.request.prompt_token_ids[: sequence.request.scored_from]
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
        # in the order of admission: in the order of slots, a low slot that is often refilled would starve the others
        for sequence in [s for s in self.running.values() if not s.decoding]:
            budget = self._read(sequence, step, leaders, budget)
        return admitted, step

    def release(self, sequence: Sequence) -> None:
        """Free the slot and the blocks of a finished sequence."""
        del self.running[sequence.slot]
        heapq.heappush(self._free, sequence.slot)
        # the last block first, so that it is evicted first: the beginning of a prompt is useful without its end
        self._pool.give_back(reversed(sequence.blocks))
        sequence.slot, sequence.blocks = -1, []

    def lower(self) -> bool:
        """Restart with half as many sequences at once and half the tokens per step; return False if only one was running."""
        running = len(self.running)
        self._most = max(1, running // 2)
        self._max_batched_tokens = max(BLOCK, self._max_batched_tokens // 2)
        if self._max_chunks is not None:
            self._max_chunks = max(1, self._max_chunks // 2)
        self.restart()
        return running > 1

    def restart(self) -> None:
        """Let all running sequences begin again, with empty blocks."""
        running = list(self.running.values())
        for sequence in reversed(running):
            self.release(sequence)
            sequence.restart()
            self._waiting.appendleft(sequence)
            self._pool.want(sequence.digests)
        self._pool.forget_all()

    def _enough(self) -> int:
        """Return how many sequences to run near the end, so that all slots in use stay busy until the longest one ends.

        More would not finish sooner: a few would be left at the end, when a step costs almost as much as with many.
        """
        if not self._free or self._to_come > 0 or not 0 < len(self._waiting) <= 4 * self._slots:
            return self._slots  # nothing to decide, or enough work until the longest one ends
        known = [*self._waiting, *self.running.values()]
        tokens = sum(s.tokens_left for s in known)
        longest = max(s.max_new - len(s.generated) for s in known)
        return max(self._few, -(-tokens // longest)) if longest else self._slots

    def _last_end(self) -> int:
        """Return the most tokens that any running sequence still has to generate."""
        if not self._free or not self._waiting:
            return 0  # not used then
        return max((s.max_new - len(s.generated) for s in self.running.values()), default=0)

    def _admits(self, enough: int, last: int) -> bool:
        """Whether the next sequence may start: too few are running, or it would end last and must not wait."""
        if len(self.running) >= self._most:
            return False
        if self._waiting[0].scored:  # a few fill every step, and more would only hold memory
            return sum(s.tokens_left for s in self.running.values()) < 2 * self._max_batched_tokens
        return len(self.running) < enough or self._waiting[0].max_new >= last

    def _reserve(self, sequence: Sequence) -> bool:
        """Give a sequence all blocks that it may need: shared ones that already hold its prompt's beginning, and new ones."""
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
        """Advance a prompt by as many chunks as the budget allows, and return the rest of the budget.

        Blocks that another sequence has computed, or computes in this same step, cost nothing: in each layer, a step writes
        all its keys and values before it reads any.
        """
        prompt = sequence.request.prompt_token_ids
        while not sequence.decoding:
            number, length = sequence.prefilled // BLOCK, sequence.next_chunk()
            digest = sequence.digests[number] if number < len(sequence.digests) else None
            block = self._pool.share(digest) if digest is not None else None
            if block is not None:
                self._replace(sequence, number, block)
                sequence.prefilled += length
                continue
            last = sequence.prefilled + length == sequence.prompt_len
            if last and self._share and not sequence.scored and prompt in leaders:
                step.twins.append(Twin(sequence, leaders[prompt]))
                if length == BLOCK:  # nothing will be written into it
                    self._replace(sequence, number, self._pool.use(leaders[prompt].blocks[number]))
                sequence.prefilled += length
                break
            chunk = Chunk(sequence, sequence.prefilled, length)
            if step.chunks and (length > budget or len(step.chunks) == self._max_chunks or self._too_many(step, chunk)):
                break
            if last and not sequence.scored:
                leaders[prompt] = sequence
            step.chunks.append(chunk)
            if digest is not None:
                self._pool.remember(sequence.blocks[number], digest)
            sequence.prefilled += length
            budget -= length
        return budget

    def _replace(self, sequence: Sequence, number: int, block: int) -> None:
        """Let a sequence use another block in a place."""
        self._pool.give_back([sequence.blocks[number]])
        sequence.blocks[number] = block

    def _too_many(self, step: Step, chunk: Chunk) -> bool:
        """Whether a step with another chunk would hold more logits than it may."""
        if self._max_scored is None or not chunk.scored:
            return False
        return sum(len(c.scored) for c in (*step.chunks, chunk)) > self._max_scored
