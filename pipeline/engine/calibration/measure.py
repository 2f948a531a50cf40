"""Measures steps of a model with random weights: their time and memory by the number of sequences and their lengths.

The steps are made by hand, so that no prompt has to be read for a long context. An engine of its own then runs some requests to
their end; what that takes beyond its steps is the host's share.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F

from pipeline.engine import native
from pipeline.engine.assembly import needs_of
from pipeline.engine.cache.block_pool import BLOCK, blocks_for
from pipeline.engine.cache.memory import Needs
from pipeline.engine.calibration.drawn import (
    drawn_model,
    held_bytes,
    largest_bytes,
    layers_to_measure,
    products,
    shorten,
)
from pipeline.engine.calibration.figures import Calibration, Curve
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.continuous import ContinuousEngine
from pipeline.engine.model.files.checkpoint import Checkpoint
from pipeline.engine.model.load import LoadedModel, make_ready
from pipeline.engine.model.tokenizer import Tokenizer, load_tokenizer
from pipeline.engine.rules.stopping import StopWatch
from pipeline.engine.rules.structured import Grammars
from pipeline.engine.scheduler import Chunk, Step
from pipeline.engine.sequence import Sequence
from pipeline.engine.steps.eager import EagerStepper
from pipeline.engine.steps.flight import Flight, Stepper
from pipeline.engine.steps.runner import ModelRunner
from pipeline.engine.steps.slots import SlotState
from pipeline.machine import peak_bytes, reset_peak, resident_bytes
from pipeline.types import Request, SamplingParams

DECODES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Sequences at once that are measured, as far as the engine runs so many."""
READS = (2, 8, 32, 96, 256)
"""Tokens of prompts in a step that are measured, as far as a step has so many."""
NEAR = 32
"""Positions of a sequence in most steps."""
_FAR = 1024
_FAR_SEQUENCES, _FAR_BYTES = 16, 512 << 20
"""Steps with a long context: most positions, sequences and bytes of cache."""
_LEAST, _MOST, _LONG = 3, 12, 5.0
"""Fewest and most rounds over all steps, and seconds after which no more is begun."""
_TURN, _TURN_SECONDS = 8, 0.03
"""Most repetitions of a step in a round, and seconds after which there are no more."""
_HOST_REQUESTS, _HOST_TOKENS = 48, 12
_RATE_ROWS, _BAND_BYTES = 1024, 128 << 20


@dataclass(frozen=True, slots=True)
class Task:
    """What is measured.

    Attributes:
        checkpoint: The model's files.
        model: How it is loaded, its dtype resolved.
        engine: How it is batched.
        stats: What is computed for each token.
        sampling: How tokens are chosen.
        max_len: Longest sequence, tokens.
        threads: CPU threads.
    """

    checkpoint: Checkpoint
    model: ModelConfig
    engine: EngineConfig
    stats: StatsConfig
    sampling: SamplingParams
    max_len: int
    threads: int


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds that depend on the number of layers."""

    decode: tuple[float, ...]
    read: tuple[float, ...]
    decode_position: float
    read_position: float

    def deeper(self, fewer: _Times, layers: float) -> _Times:
        """Return the times with `layers` times as many layers more as `self` has more than `fewer`."""

        def more(here: float, there: float) -> float:
            return here + max(0.0, here - there) * layers

        return _Times(
            tuple(map(more, self.decode, fewer.decode)), tuple(map(more, self.read, fewer.read)),
            more(self.decode_position, fewer.decode_position), more(self.read_position, fewer.read_position),
        )  # fmt: skip


def calibrate(task: Task) -> Calibration:
    """Measure.

    Raises:
        ModelRefused: If the model cannot be made here.
    """
    began = time.perf_counter()
    torch.set_num_threads(task.threads)
    native.use(task.engine.kernels)
    process = resident_bytes()
    tokenizer = load_tokenizer(task.checkpoint.tokenizer, task.checkpoint.vocab_size or 0)
    layers, measured = layers_to_measure(task.checkpoint)
    drawn = drawn_model(task.checkpoint, measured, task.model.dtype)
    before = time.perf_counter()
    loaded = make_ready(
        drawn, task.checkpoint, task.model, max_len=task.max_len, deterministic=task.engine.deterministic
    )
    packing = time.perf_counter() - before
    sizes, flops = held_bytes(loaded.model), _flops(loaded)
    needs = needs_of(loaded, most_tokens=task.engine.max_num_batched_tokens or needs_of(loaded).most_tokens)
    bench = _Bench(task, loaded, tokenizer, needs)
    decodes, reads, step = bench.sequences, bench.reads, bench.memory()
    times = bench.times()
    host = bench.host()
    if measured < layers:
        half = measured // 2
        shorten(loaded, half)
        more = (layers - measured) / (measured - half)
        short = replace(loaded, layers=half)
        times = times.deeper(_Bench(task, short, tokenizer, needs).times(), more)
        sizes += round((sizes - held_bytes(loaded.model)) * more)
        flops = tuple(a + (a - b) * more for a, b in zip(flops, _flops(loaded), strict=True))
        packing *= 1 + more * (measured - half) / measured
        needs = replace(needs, block_bytes=needs.block_bytes * layers // measured)
    taking = bench.taking
    del bench
    rate = _rate(loaded, int8=task.model.quantization == "int8")
    return Calibration(
        layers=layers, measured=measured, took=time.perf_counter() - began,
        decode=_curve(decodes, times.decode), read=_curve(reads, times.read),
        decode_position=times.decode_position, read_position=times.read_position, near=NEAR, host=host, importing=0.0,
        packing=packing, taking=taking, process=process, weights=sizes, transient=largest_bytes(loaded.model), step=step,
        needs=needs, flops=rate, bandwidth=_bandwidth(), token_flops=flops[0], output_flops=flops[1], streamed=round(flops[2]),
    )  # fmt: skip


class _Bench:
    """Steps made by hand over one model."""

    def __init__(self, task: Task, loaded: LoadedModel, tokenizer: Tokenizer, needs: Needs) -> None:
        """Set up the parts of an engine."""
        self._task, self._loaded, self._tokenizer, self._needs = task, loaded, tokenizer, needs
        most = min(task.engine.sequences or needs.most, DECODES[-1])
        self.sequences = (*(n for n in DECODES if n < most), most)
        self.reads = (*(n for n in READS if n < needs.most_tokens), needs.most_tokens)
        self._near, self._chunk = min(NEAR, task.max_len - 1), min(BLOCK, max(1, task.max_len - 2))
        room = _FAR_BYTES // max(1, needs.block_bytes) * BLOCK // _FAR_SEQUENCES
        self._far = max(self._near, min(_FAR, task.max_len - 2, room) // BLOCK * BLOCK)
        self._slots = max(most, _FAR_SEQUENCES, -(-needs.most_tokens // self._chunk))
        self._max_len = min(task.max_len, self._far + needs.most_tokens + 2 * BLOCK)
        prompts = -(-needs.most_tokens // self._chunk) * blocks_for(self._max_len)  # if each has one chunk
        blocks = max(most * blocks_for(self._near + 1), _FAR_SEQUENCES * blocks_for(self._far + 1), prompts)
        self._blocks = blocks
        runner = ModelRunner(loaded, self._slots, self._max_len, blocks)
        before = time.perf_counter()
        runner.cache.take(blocks)
        self.taking = (time.perf_counter() - before) / blocks / max(1, needs.block_bytes)
        grammars = Grammars(tokenizer, loaded.vocab_size, loaded.eos_token_ids, task.threads)
        self._state = SlotState(self._slots, self._max_len, loaded.vocab_size, loaded.device, tokenizer, grammars)
        self._stepper = EagerStepper(runner, self._state, task.stats)
        self._sampling = replace(
            task.sampling, max_tokens=2, min_tokens=0, n=1, stop=(), ignore_eos=True, regex=None, choice=(),
            json_schema=None,
        )  # fmt: skip

    def memory(self) -> Curve:
        """Return sequences → bytes of a step's tensors, by the peak of the process; none where it is not told."""
        before = resident_bytes()
        if not reset_peak():
            return ((1.0, 0.0),)
        curve = []
        self._reading(self._needs.most_tokens, 0)()
        for number in self.sequences:
            self._decoding(number, self._near)()
            curve.append((float(number), float(max(0, peak_bytes() - before))))
        return tuple(curve)

    def times(self) -> _Times:
        """Return the seconds of steps."""
        few, tokens, far = min(_FAR_SEQUENCES, self.sequences[-1]), self.reads[-1], self._far - self._near
        start = max(0, min(self._far, self._max_len - 2 - BLOCK) // BLOCK * BLOCK)
        ways = [
            *(partial(self._decoding, number, self._near) for number in self.sequences),
            *(partial(self._reading, number, 0) for number in self.reads),
            partial(self._decoding, few, self._near), partial(self._decoding, few, self._far),
            partial(self._reading, tokens, start),
        ]  # fmt: skip
        *found, near, distant, behind = _shortest(ways)
        decode, read = found[: len(self.sequences)], found[len(self.sequences) :]
        return _Times(
            _rising(decode), _rising(read), max(0.0, distant - near) / few / far if far >= BLOCK else 0.0,
            max(0.0, behind - read[-1]) / tokens / start if start >= BLOCK else 0.0,
        )  # fmt: skip

    def host(self) -> float:
        """Return the seconds beside steps for each token, by an engine that runs requests to their end."""
        length = max(1, min(_HOST_TOKENS, self._max_len - NEAR // 2))
        sampling = replace(self._sampling, max_tokens=length)
        prompts = [tuple(self._ids(min(NEAR // 2, self._max_len - length), i)) for i in range(_HOST_REQUESTS)]
        requests = [Request(str(i), 0, prompt, sampling) for i, prompt in enumerate(prompts)]
        slots = min(self.sequences[-1], _HOST_REQUESTS // 2)
        runner = ModelRunner(self._loaded, slots, self._max_len, slots * blocks_for(self._max_len))
        engine = ContinuousEngine(runner, self._tokenizer, self._task.stats, self._needs.most_tokens)
        stepper, within = _Timed(engine.stepper), list[float]()
        engine.stepper = stepper
        for _ in range(2):
            stepper.seconds, began = 0.0, time.perf_counter()
            engine.add(requests)
            while any(engine.load()):
                engine.step()
            within.append(time.perf_counter() - began - stepper.seconds)
        return max(0.0, min(within)) / (length * len(requests))

    def _ids(self, length: int, seed: int) -> list[int]:
        return [(7 * seed + 13 * i) % self._loaded.vocab_size for i in range(length)]

    def _sequence(self, slot: int, length: int, first_block: int) -> Sequence:
        """Make a sequence whose prompt has been read, and let the slot know it."""
        sequence = Sequence(Request(str(slot), 0, tuple(self._ids(length, slot)), self._sampling), 2, slot)
        needed = blocks_for(length + 1)
        assert first_block + needed <= self._blocks, "kernels do not check where they write"
        sequence.blocks, sequence.prefilled = list(range(first_block, first_block + needed)), length
        watch = StopWatch(sequence.request, 2, self._loaded.eos_token_ids, self._tokenizer)
        self._stepper.admit([(sequence, watch)])
        return sequence

    def _decoding(self, number: int, length: int) -> Callable[[], object]:
        """Return a step that decodes so many sequences of one length."""
        needed = blocks_for(length + 1)
        step = Step([self._sequence(slot, length, slot * needed) for slot in range(number)], [], [])
        return lambda: self._stepper.launch(step).wait()

    def _reading(self, tokens: int, start: int) -> Callable[[], object]:
        """Return a step that reads so many tokens of prompts that go on after them, from a position on."""
        each = max(1, (self._max_len - 2 - start) // BLOCK)  # chunks of a prompt
        lengths = [min(self._chunk, tokens - done) for done in range(0, tokens, self._chunk)]
        step, needed = Step([], [], []), blocks_for(min(start + each * BLOCK + 1, self._max_len))
        for slot, first in enumerate(range(0, len(lengths), each)):
            some = lengths[first : first + each]
            sequence = self._sequence(slot, start + sum(some) + 1, slot * needed)
            step.chunks.extend(Chunk(sequence, start + BLOCK * i, length) for i, length in enumerate(some))
        return lambda: self._stepper.launch(step).wait()


class _Timed:
    """A stepper whose steps are timed.

    Attributes:
        seconds: What they took.
    """

    def __init__(self, inner: Stepper) -> None:
        """Begin at zero."""
        self._inner, self.seconds = inner, 0.0

    def admit(self, admitted: Seq[tuple[Sequence, StopWatch | None]]) -> None:
        """See `Stepper.admit`; that is the host's work."""
        self._inner.admit(admitted)

    def shed(self) -> bool:
        """See `Stepper.shed`."""
        return self._inner.shed()

    def launch(self, step: Step) -> Flight:
        """See `Stepper.launch`."""
        before = time.perf_counter()
        found = self._inner.launch(step)
        self.seconds += time.perf_counter() - before
        return found


def _curve(numbers: tuple[int, ...], values: tuple[float, ...]) -> Curve:
    return tuple((float(n), value) for n, value in zip(numbers, values, strict=True))


@torch.inference_mode()
def _shortest(ways: Seq[Callable[[], Callable[[], object]]]) -> list[float]:
    """Return the shortest time of each step; they take turns, so that what else runs slows none of them alone.

    Args:
        ways: Each prepares a step, whose time does not count, and returns it.
    """
    best, began = [float("inf")] * len(ways), time.perf_counter()
    for number in range(_MOST + 1):
        if number > _LEAST and time.perf_counter() - began > _LONG:
            break
        for place, way in enumerate(ways):
            run, turn = way(), time.perf_counter()
            for _ in range(_TURN):
                before = time.perf_counter()
                run()
                if number:  # the first round prepares memory
                    best[place] = min(best[place], time.perf_counter() - before)
                if time.perf_counter() - turn > _TURN_SECONDS:
                    break
    return best


def _rising(values: Seq[float]) -> tuple[float, ...]:
    """Return values that do not fall: what took longer with less to do was disturbed."""
    return tuple(min(values[i:]) for i in range(len(values)))


def _flops(loaded: LoadedModel) -> tuple[float, ...]:
    """Return (operations of a token in the linear layers, those of the output layer, bytes of their weights)."""
    inner, output = products(loaded)
    sizes = [2.0 * sum(m.in_features * m.out_features for m in found) for found in (inner, output)]
    return (*sizes, float(sum(held_bytes(m) for m in (*inner, *output))))


@torch.inference_mode()
def _rate(loaded: LoadedModel, *, int8: bool) -> float:
    """Return the operations per second of one large product: the layer's own, or the library's if that is faster."""
    inner, output = products(loaded)
    layer = max(inner or output, key=lambda m: m.in_features * m.out_features)
    x = torch.randn(_RATE_ROWS, layer.in_features)
    ways: list[Callable[[], Callable[[], object]]] = [lambda: partial(layer, x.to(loaded.dtype))]
    if not int8:
        weight = torch.randn(layer.out_features, layer.in_features)
        ways.append(lambda: partial(F.linear, x, weight))
    return 2.0 * _RATE_ROWS * layer.in_features * layer.out_features / min(_shortest(ways))


def _bandwidth() -> float:
    """Return the bytes per second at which memory is read."""
    area = torch.ones(_BAND_BYTES // 4)
    return _BAND_BYTES / _shortest([lambda: area.sum])[0]
