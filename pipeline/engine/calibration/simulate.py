"""Runs the engine's own scheduler over expected sequences, with the calibrated time of each step instead of the step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from pipeline.engine.cache.block_pool import BlockPool
from pipeline.engine.cache.memory import MemoryPlan
from pipeline.engine.calibration.figures import Calibration, Work
from pipeline.engine.scheduler import Scheduler, Step, few_for
from pipeline.engine.sequence import Sequence
from pipeline.types import Request

IN_FLIGHT = 2
"""Shards in flight per replica."""


@dataclass(frozen=True, slots=True)
class Expected:
    """A request, the tokens that it may generate, and those that it is expected to generate."""

    request: Request
    most: int
    length: int


@dataclass(frozen=True, slots=True)
class Setup:
    """How a replica's engine is set up.

    Attributes:
        memory: Its sequences and blocks.
        most_tokens: Most tokens of a step.
        share: Whether prompts share what they have in common.
        threads: Its threads.
        expected: Sequences in all.
        max_scored: Most scored tokens of a step; None: no bound.
    """

    memory: MemoryPlan
    most_tokens: int
    share: bool
    threads: int
    expected: int
    max_scored: int | None = None


@dataclass(slots=True)
class Simulated:
    """What a simulation came to.

    Attributes:
        seconds: Time of all steps.
        limit: The least time that the machine could take for them.
        tokens: Generated tokens.
        read: Tokens of prompts that were computed.
        steps: Number of steps.
        running: Most sequences that ran at once.
        blocks: Blocks from the first to the last that is used: a page of memory holds many, so those between take memory, too.
        complete: Whether all sequences ended; else the simulation was cut off.
        half: Seconds and tokens when half of the permitted steps were done.
    """

    seconds: float = 0.0
    limit: float = 0.0
    tokens: int = 0
    read: int = 0
    steps: int = 0
    running: int = 0
    blocks: int = 0
    complete: bool = True
    half: tuple[float, int] = field(default=(0.0, 0))

    def whole(self, tokens: float) -> float:
        """Return the seconds until `tokens` are generated: after the cut, at the rate of the second half."""
        if self.complete or not tokens:
            return self.seconds
        seconds, made = self.seconds - self.half[0], self.tokens - self.half[1]
        return self.seconds + max(0.0, tokens - self.tokens) * seconds / max(1, made)


def simulate(shards: Iterable[Seq[Expected]], calibration: Calibration, setup: Setup, most_steps: int) -> Simulated:
    """Simulate a replica.

    Args:
        shards: The sequences of each of its shards.
        calibration: The times of steps.
        setup: The engine.
        most_steps: After so many steps the simulation is cut off.
    """
    pool, found = BlockPool(setup.memory.blocks), Simulated()
    scheduler = Scheduler(
        setup.memory.sequences, setup.most_tokens, pool, share=setup.share, few=few_for(setup.threads),
        expected=setup.expected, max_scored=setup.max_scored,
    )  # fmt: skip
    in_flight = _Shards(iter(shards))
    while True:
        scheduler.add(in_flight.fill())
        admitted, step = scheduler.schedule()
        if not (step.decodes or step.chunks):
            return found
        if found.steps == most_steps:
            found.complete = False
            return found
        work = work_of(step, len(admitted))
        found.seconds += calibration.seconds(work)
        found.limit += calibration.limit(work)
        found.steps += 1
        found.read += work.read
        found.running = max(found.running, len(scheduler.running))
        found.blocks = max([found.blocks, *(1 + max(sequence.blocks) for sequence in admitted)])
        for sequence in step.choosing:
            found.tokens += 1
            sequence.generated.append(0)
            if in_flight.ended(sequence):
                scheduler.release(sequence)
        for sequence in [c.sequence for c in step.chunks if c.sequence.scored and c.last]:
            in_flight.end(sequence)
            scheduler.release(sequence)
        found.tokens += work.scored
        if found.steps == most_steps // 2:
            found.half = found.seconds, found.tokens


def work_of(step: Step, begun: int = 0) -> Work:
    """Return the work of a step with which so many sequences begin."""
    return Work(
        len(step.decodes), sum(s.position for s in step.decodes), sum(c.length for c in step.chunks),
        sum(c.length * c.start for c in step.chunks), len(step.choosing), sum(len(c.scored) for c in step.chunks), begun,
    )  # fmt: skip


class _Shards:
    """The shards in flight: when one ends, the next one starts."""

    def __init__(self, shards: Iterator[Seq[Expected]]) -> None:
        """Begin with none."""
        self._shards = shards
        self._left: list[int] = []  # sequences of each shard that have not ended
        self._of: dict[Sequence, tuple[int, int]] = {}  # sequence → its shard, and how long it becomes
        self._open = 0

    def fill(self) -> list[Sequence]:
        """Return the sequences of the shards that come now."""
        new: list[Sequence] = []
        while self._open < IN_FLIGHT and (shard := next(self._shards, None)) is not None:
            if not shard:
                continue
            self._open += 1
            made = [Sequence(e.request, 0 if e.request.scored_from is not None else e.most) for e in shard]
            lengths = [expected.length for expected in shard]
            self._of |= {s: (len(self._left), length) for s, length in zip(made, lengths, strict=True)}
            self._left.append(len(made))
            new += made
        return new

    def ended(self, sequence: Sequence) -> bool:
        """Whether a sequence that got a token ends; its shard may end with it."""
        if len(sequence.generated) < self._of[sequence][1]:
            return False
        self.end(sequence)
        return True

    def end(self, sequence: Sequence) -> None:
        """Count a sequence that ends."""
        shard, _ = self._of.pop(sequence)
        self._left[shard] -= 1
        self._open -= not self._left[shard]
