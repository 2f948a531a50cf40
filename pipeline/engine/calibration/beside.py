"""Measures the overhead of an engine: it runs requests to their end, and subtracts the time that the steps alone take.

What is left is scheduling, stop rules, decoding of texts, records, and whatever makes a step slower in a run than alone. It is
shared out among steps, tokens and requests by jobs in which these come in different proportions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

import numpy as np

from pipeline.engine.cache.block_pool import blocks_for
from pipeline.engine.cache.memory import Needs
from pipeline.engine.calibration.bench import ids
from pipeline.engine.calibration.figures import Beside, StepTimes
from pipeline.engine.calibration.simulate import work_of
from pipeline.engine.calibration.task import Task
from pipeline.engine.continuous import ContinuousEngine
from pipeline.engine.model.load import LoadedModel
from pipeline.engine.model.tokenizer import Tokenizer
from pipeline.engine.rules.stopping import StopWatch
from pipeline.engine.scheduler import Step
from pipeline.engine.sequence import Sequence
from pipeline.engine.steps.flight import Flight, Stepper
from pipeline.engine.steps.runner import ModelRunner
from pipeline.types import Request

_FEW, _PROMPT = 4, 8
_SHORT, _LONG, _LONGEST = 3, 12, 24
"""Tokens of each sequence, where all slots are full, with more of them, and with few sequences."""
_PATIENCE = 6.0
"""Seconds after which a job is not run again."""
_TIMES = 3


@dataclass(frozen=True, slots=True)
class _Run:
    """A job that was run: how much of each there was, and the seconds that its steps do not explain."""

    steps: int
    tokens: int
    requests: int
    rest: float
    seconds: float


def beside(task: Task, loaded: LoadedModel, tokenizer: Tokenizer, needs: Needs, times: StepTimes) -> Beside:
    """Return what each step, token and request takes beside the times of steps that are known.

    Args:
        task: What is measured.
        loaded: The model that `times` were measured with.
        tokenizer: Its tokenizer.
        needs: What the engine's memory planner takes as given.
        times: The times of steps alone.
    """
    most = min(task.engine.sequences or needs.most, needs.most)
    jobs = ((most, _SHORT), (most, _LONG), (min(_FEW, most), _LONGEST))
    runs = []
    for number, length in jobs:
        began = time.perf_counter()
        same: list[_Run] = []
        while len(same) < _TIMES and time.perf_counter() - began < _PATIENCE:
            same.append(_run(task, loaded, tokenizer, needs, times, number, length))
        runs.append(sorted(same, key=lambda run: run.seconds)[len(same) // 2])
    counts = [(float(run.steps), float(run.tokens), float(run.requests)) for run in runs]
    return Beside(*shares(counts, [run.rest for run in runs], [1 / run.seconds for run in runs]))


def _run(
    task: Task, loaded: LoadedModel, tokenizer: Tokenizer, needs: Needs, times: StepTimes, number: int, length: int
) -> _Run:  # fmt: skip
    """Run a job of so many sequences of a length; what is scored is as long as the others with their prompts."""
    prompt = min(_PROMPT, max(1, task.max_len - length))
    made = max(1, min(length, task.max_len - prompt))
    sampling = replace(task.sampling, max_tokens=made, min_tokens=0, n=1, ignore_eos=True)
    whole, first = (prompt + made, 1) if task.scoring else (prompt, None)
    requests = [Request(str(i), 0, tuple(ids(whole, i, loaded.vocab_size)), sampling, first) for i in range(number)]
    longest = min(task.max_len, prompt + made + 1)
    engine = ContinuousEngine(
        ModelRunner(loaded, number, longest, number * blocks_for(longest)), tokenizer, task.stats, needs.most_tokens,
        prefix_caching=task.engine.prefix_caching,
    )  # fmt: skip
    known = _Known(engine.stepper, times)
    engine.stepper = known
    tokens, began = 0, time.perf_counter()
    engine.add(requests)
    while any(engine.load()):
        tokens += sum(len(done.token_ids) for done in engine.step())
    seconds = time.perf_counter() - began
    return _Run(known.steps, tokens, number, seconds - known.seconds, seconds)


class _Known:
    """A stepper that adds up what its steps are known to take.

    Attributes:
        steps: Their number.
        seconds: What they take, as it is known.
    """

    def __init__(self, inner: Stepper, times: StepTimes) -> None:
        """Begin at zero."""
        self._inner, self._times, self.steps, self.seconds = inner, times, 0, 0.0

    def admit(self, admitted: Seq[tuple[Sequence, StopWatch | None]]) -> None:
        """See `Stepper.admit`."""
        self._inner.admit(admitted)

    def shed(self) -> bool:
        """See `Stepper.shed`."""
        return self._inner.shed()

    def launch(self, step: Step) -> Flight:
        """See `Stepper.launch`."""
        self.steps += 1
        self.seconds += self._times.seconds(work_of(step))
        return self._inner.launch(step)


def shares(counts: Seq[tuple[float, ...]], rest: Seq[float], weights: Seq[float]) -> tuple[float, ...]:
    """Return what one of each kind takes, at least 0, such that jobs take what they took, as nearly as that can be.

    Args:
        counts: How many of each kind a job has.
        rest: What is to be explained of each job.
        weights: What counts of an error of each job.
    """
    matrix = np.array(counts, np.float64) * np.array(weights)[:, None]
    wanted, kinds = np.array(rest) * np.array(weights), list(range(matrix.shape[1]))
    while kinds:
        found = np.linalg.lstsq(matrix[:, kinds], wanted, rcond=None)[0]
        if found.min() >= 0:
            break
        kinds.pop(int(found.argmin()))
    given = dict(zip(kinds, found.tolist(), strict=True)) if kinds else {}
    return tuple(given.get(kind, 0.0) for kind in range(matrix.shape[1]))
