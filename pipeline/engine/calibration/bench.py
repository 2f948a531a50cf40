"""Steps made by hand over a model, so that no prompt has to be read for a long context: their time and their memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from pipeline.engine.cache.block_pool import BLOCK, blocks_for
from pipeline.engine.cache.memory import Needs
from pipeline.engine.calibration.figures import Curve, StepTimes
from pipeline.engine.calibration.task import Task
from pipeline.engine.calibration.timing import Way, typical
from pipeline.engine.model.load import LoadedModel
from pipeline.engine.model.tokenizer import Tokenizer
from pipeline.engine.rules.stopping import StopWatch
from pipeline.engine.rules.structured import Grammars
from pipeline.engine.scheduler import Chunk, Step
from pipeline.engine.sequence import Sequence
from pipeline.engine.steps.eager import LOGITS_BYTES, EagerStepper
from pipeline.engine.steps.runner import ModelRunner
from pipeline.engine.steps.slots import SlotState
from pipeline.machine import peak_bytes, reset_peak, resident_bytes
from pipeline.types import Request, SamplingParams

DECODES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Sequences at once that are measured, as far as the engine runs so many."""
READS = (2, 8, 32, 64, 128, 256)
"""Tokens of prompts in a step that are measured, as far as a step has so many."""
NEAR = 32
"""Positions of a sequence in most steps."""
_FAR, _LEAST_FAR = 1024, 256
_FAR_SEQUENCES, _FAR_BYTES = 64, 512 << 20
"""Steps with a long context: most positions, those that are worth having fewer sequences, most sequences, bytes of cache."""


def plain(sampling: SamplingParams) -> SamplingParams:
    """Return sampling parameters with the same work for the sampler, and no rule that ends a text."""
    return replace(
        sampling, max_tokens=2, min_tokens=0, n=1, stop=(), ignore_eos=True, regex=None, choice=(), json_schema=None
    )


def ids(length: int, seed: int, vocabulary: int) -> list[int]:
    """Return token ids of a prompt that has no beginning in common with those of other seeds."""
    return [(7 * seed + 13 * i) % vocabulary for i in range(length)]


class Bench:
    """Steps made by hand over one model."""

    def __init__(self, task: Task, loaded: LoadedModel, tokenizer: Tokenizer, needs: Needs) -> None:
        """Set up the parts of an engine."""
        self._task, self._loaded, self._tokenizer, self._needs = task, loaded, tokenizer, needs
        most = min(task.engine.sequences or needs.most, DECODES[-1])
        self.sequences = (*(n for n in DECODES if n < most), most)
        self.reads = (*(n for n in READS if n < needs.most_tokens), needs.most_tokens)
        self._near, self._chunk = min(NEAR, task.max_len - 1), min(BLOCK, max(1, task.max_len - 2))
        room = _FAR_BYTES // max(1, needs.block_bytes) * BLOCK  # positions in all
        long = max(BLOCK, min(_LEAST_FAR, task.max_len))
        self._distant = max(1, min(_FAR_SEQUENCES, 1 if task.scoring else most, room // long))
        self._far = max(self._near, min(_FAR, task.max_len - 2, room // self._distant) // BLOCK * BLOCK)
        self._slots = max(most, -(-needs.most_tokens // self._chunk))
        self._max_len = min(task.max_len, self._far + needs.most_tokens + 2 * BLOCK)
        prompts = -(-needs.most_tokens // self._chunk) * blocks_for(self._max_len)  # if each has one chunk
        blocks = max(most * blocks_for(self._near + 1), self._distant * blocks_for(self._far + 1), prompts)
        self._blocks = blocks
        runner = ModelRunner(loaded, self._slots, self._max_len, blocks)
        before = time.perf_counter()
        runner.cache.take(blocks)
        self.taking = (time.perf_counter() - before) / blocks / max(1, needs.block_bytes)
        grammars = Grammars(tokenizer, loaded.vocab_size, loaded.eos_token_ids, task.threads)
        self._state = SlotState(self._slots, self._max_len, loaded.vocab_size, loaded.device, tokenizer, grammars)
        self._stepper = EagerStepper(runner, self._state, task.stats)
        self._sampling = plain(task.sampling)

    def memory(self) -> Curve:
        """Return sequences → bytes of a step's tensors, by the peak of the process; none where it is not told."""
        before = resident_bytes()
        if not reset_peak():
            return ((1.0, 0.0),)
        curve = []
        self._reading(self._most_scored if self._task.scoring else self._needs.most_tokens, 0, self._task.scoring)()
        for number in self.sequences[:1] if self._task.scoring else self.sequences:
            self._decoding(number, self._near)()
            curve.append((float(number), float(max(0, peak_bytes() - before))))
        return tuple(curve)

    def times(self) -> StepTimes:
        """Return the seconds of steps."""
        scoring = self._task.scoring
        sequences = self.sequences[:1] if scoring else self.sequences
        few, tokens, far = self._distant, self.reads[-1], self._far - self._near
        start, scored = max(0, min(self._far, self._max_len - 2 - BLOCK) // BLOCK * BLOCK), self._most_scored
        ways: list[Way] = [
            *(partial(self._decoding, number, self._near) for number in sequences),
            *(partial(self._reading, number, 0) for number in self.reads),
            partial(self._decoding, few, self._near), partial(self._decoding, few, self._far),
            partial(self._reading, tokens, start),
            *((partial(self._reading, scored, 0), partial(self._reading, scored, 0, True)) if scoring else ()),
        ]  # fmt: skip
        found = typical(ways)
        decode, read = found[: len(sequences)], found[len(sequences) : len(sequences) + len(self.reads)]
        near, distant, behind, *both = found[len(sequences) + len(self.reads) :]
        return StepTimes(
            _curve(sequences, decode), _curve(self.reads, read),
            max(0.0, distant - near) / few / far if far >= BLOCK else 0.0,
            max(0.0, behind - read[-1]) / tokens / start if start >= BLOCK else 0.0,
            float(self._near), max(0.0, both[1] - both[0]) / scored if both else 0.0,
        )  # fmt: skip

    @property
    def _most_scored(self) -> int:
        """Tokens that are scored in one step."""
        return max(1, min(self._needs.most_tokens, LOGITS_BYTES // (4 * self._loaded.vocab_size)))

    def _sequence(self, slot: int, length: int, first_block: int, *, scored: bool = False) -> Sequence:
        """Make a sequence whose prompt has been read, and let the slot know it."""
        prompt = tuple(ids(length + scored, slot, self._loaded.vocab_size))
        request = Request(str(slot), 0, prompt, self._sampling, 1 if scored else None)
        sequence = Sequence(request, 0 if scored else 2, slot)
        needed = blocks_for(length + 1)
        assert first_block + needed <= self._blocks, "kernels do not check where they write"
        sequence.blocks, sequence.prefilled = list(range(first_block, first_block + needed)), length
        watch = StopWatch(sequence.request, 2, self._loaded.eos_token_ids, self._tokenizer)
        self._stepper.admit([(sequence, None if scored else watch)])
        return sequence

    def _decoding(self, number: int, length: int) -> Callable[[], object]:
        """Return a step that decodes so many sequences of one length."""
        needed = blocks_for(length + 1)
        step = Step([self._sequence(slot, length, slot * needed) for slot in range(number)], [], [])
        return lambda: self._stepper.launch(step).wait()

    def _reading(self, tokens: int, start: int, scored: bool = False) -> Callable[[], object]:
        """Return a step that reads so many tokens of prompts that go on after them, from a position on, and may score them."""
        each = max(1, (self._max_len - 2 - start) // BLOCK)  # chunks of a prompt
        lengths = [min(self._chunk, tokens - done) for done in range(0, tokens, self._chunk)]
        step, needed = Step([], [], []), blocks_for(min(start + each * BLOCK + 1, self._max_len))
        for slot, first in enumerate(range(0, len(lengths), each)):
            some = lengths[first : first + each]
            sequence = self._sequence(slot, start + sum(some) + 1, slot * needed, scored=scored)
            step.chunks.extend(Chunk(sequence, start + BLOCK * i, length) for i, length in enumerate(some))
        return lambda: self._stepper.launch(step).wait()


def _curve(numbers: tuple[int, ...], values: list[float]) -> Curve:
    """Return points whose values do not fall: what took longer with less to do was disturbed."""
    rising = [min(values[i:]) for i in range(len(values))]
    return tuple((float(n), value) for n, value in zip(numbers, rising, strict=True))
