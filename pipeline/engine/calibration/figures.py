"""What a calibration found, and from it the time of a step and the memory of a replica. It imports no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from pipeline.engine.cache.memory import Needs
from pipeline.store.door import parse

Curve = tuple[tuple[float, ...], ...]
"""Points (x, y), x ascending."""
_BUSY = 0.08
"""Share of its time that a measurement may wait for the processor."""


def at(curve: Curve, x: float) -> float:
    """Return y at x: between points on a line, beyond the last one on the line through the last two, at least 0."""
    if len(curve) == 1 or x <= curve[0][0]:
        return curve[0][1]
    place = next((i for i, point in enumerate(curve) if x <= point[0]), len(curve) - 1)
    (x0, y0), (x1, y1) = curve[place - 1], curve[place]
    return max(0.0, y0 + (y1 - y0) * (x - x0) / (x1 - x0))


@dataclass(frozen=True, slots=True)
class Work:
    """The work of one step.

    Attributes:
        decodes: Sequences that decode.
        decode_context: Positions that these read, all together.
        read: Tokens of prompts.
        read_context: Positions before their chunks, added up over those tokens.
        choosing: Sequences that choose a token.
        scored: Tokens that are scored.
        begun: Sequences that begin with it.
    """

    decodes: int
    decode_context: int
    read: int
    read_context: int
    choosing: int
    scored: int = 0
    begun: int = 0


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of steps alone.

    Attributes:
        decode: Sequences that decode, at few positions → seconds of the step.
        read: Tokens of prompts in a step, at the beginning of a text → seconds of the step.
        decode_position: Seconds for each position that a decoding sequence reads beyond `near`.
        read_position: The same for each token of a prompt.
        near: Positions that a sequence had in `decode`.
        scored: Seconds more for each token of a prompt that is scored.
    """

    decode: Curve
    read: Curve
    decode_position: float
    read_position: float
    near: float
    scored: float = 0.0

    def seconds(self, work: Work) -> float:
        """Return the time of a step."""
        choosing = max(work.decodes, work.choosing)
        base = at(self.decode, choosing) if choosing else 0.0
        if work.read:  # what these tokens add to a step that chooses as many
            rows = choosing + work.read
            base += at(self.read, rows) - (at(self.read, choosing) if choosing else 0.0)
        beyond = max(0.0, work.decode_context - self.near * work.decodes)
        context = self.decode_position * beyond + self.read_position * work.read_context
        return base + context + self.scored * work.scored

    def deeper(self, fewer: StepTimes, layers: float) -> StepTimes:
        """Return the times with `layers` times as many layers more as `self` has more than `fewer`."""

        def more(here: float, there: float) -> float:
            return here + max(0.0, here - there) * layers

        def curve(here: Curve, there: Curve) -> Curve:
            return tuple((x, more(y, other)) for (x, y), (_, other) in zip(here, there, strict=True))

        return StepTimes(
            curve(self.decode, fewer.decode), curve(self.read, fewer.read),
            more(self.decode_position, fewer.decode_position), more(self.read_position, fewer.read_position), self.near,
            self.scored,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Beside:
    """Seconds that an engine takes beside its steps alone: for each step, each token that it makes, and each request."""

    step: float = 0.0
    token: float = 0.0
    request: float = 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Times in seconds and sizes in bytes of one model on one machine, with a given number of threads.

    Attributes:
        layers: The model's layers.
        measured: How many of them were measured; the others are added.
        took: Seconds that the measurement took.
        busy: Share of that time in which other work had the processor.
        times: The times of steps alone.
        beside: What comes beside them.
        importing: Seconds until the libraries are imported.
        packing: Seconds to make the whole model ready once its weights are read.
        taking: Seconds to take a byte of memory for the cache.
        process: Bytes of the process before the model, with the libraries and the tokenizer.
        weights: Bytes of the whole model when it is ready.
        transient: Most bytes beside them while it is made ready.
        step: Sequences → bytes of a step's tensors.
        needs: What the engine's memory planner takes as given.
        flops: Operations per second of one large product.
        bandwidth: Bytes per second that are read from memory.
        token_flops: Operations for a token, without the output layer.
        output_flops: Operations of the output layer, for a token that is chosen.
        most_scored: Most tokens that are scored in one step.
        streamed: Bytes of weights that a step reads.
    """

    layers: int
    measured: int
    took: float
    busy: float
    times: StepTimes
    beside: Beside
    importing: float
    packing: float
    taking: float
    process: int
    weights: int
    transient: int
    step: Curve
    needs: Needs
    flops: float
    bandwidth: float
    token_flops: float
    output_flops: float
    streamed: int
    most_scored: int

    @property
    def disturbed(self) -> bool:
        """Whether other work disturbed it so much that it is better measured again."""
        return self.busy > _BUSY

    def seconds(self, work: Work) -> float:
        """Return the time of a step, with what comes beside it."""
        made = max(work.decodes, work.choosing) + work.scored
        more = self.beside.step + self.beside.token * made + self.beside.request * work.begun
        return self.times.seconds(work) + more

    def limit(self, work: Work) -> float:
        """Return the least time in which the machine could compute a step: its arithmetic, or reading the weights."""
        flops = (work.decodes + work.read) * self.token_flops + (work.choosing + work.scored) * self.output_flops
        return max(flops / self.flops, self.streamed / self.bandwidth)

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read what `to_json` wrote.

        Raises:
            ValueError: If it is none.
        """
        found = parse(text.encode(), cls)
        for curve in (found.times.decode, found.times.read, found.step):
            if not curve or any(len(point) != 2 for point in curve) or list(curve) != sorted(curve):
                raise ValueError("a curve has no points, or others than it can have")
        if min(found.flops, found.bandwidth, found.layers, found.needs.most, found.needs.block_bytes) <= 0:
            raise ValueError("a figure is not above 0")
        return found
