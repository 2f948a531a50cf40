"""What a job takes: tokens, memory, time and disk, put together from a sample of its rows and a calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.engine.base import Foreseeable
from pipeline.engine.cache.memory import MemoryPlan, held_by_blocks, likely_blocks
from pipeline.engine.calibration.figures import Calibration, at
from pipeline.engine.calibration.known import key_of_endings, known_endings
from pipeline.engine.calibration.simulate import Setup, Simulated, simulate
from pipeline.errors import ModelRefused
from pipeline.machine import huge_page_bytes
from pipeline.output.record.prediction import Prediction
from pipeline.planning.plan import Plan
from pipeline.work.config import GenerateConfig
from pipeline.work.estimate.disk import Disk, estimate_disk
from pipeline.work.estimate.expect import Lengths, ends_early, shards_of
from pipeline.work.estimate.sample import Sample, take_sample
from pipeline.work.job import Job
from pipeline.work.recipe import Recipe, open_recipe
from pipeline.work.score.config import ScoreConfig

READING = 1.2e9
"""Bytes of weights per second that come from the page cache, where hashing has put them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the replicas run.

    Attributes:
        replicas: Their number.
        threads: Threads of each.
        together: Replicas that share a machine.
        machines: Number of machines.
        start: Seconds until a replica begins to import its libraries.
        more_bytes: Memory of a replica's process beyond that of this one.
        available: Bytes of a machine that may still be allocated; None: unknown.
    """

    replicas: int
    threads: int
    together: int = 1
    machines: int = 1
    start: float = 0.0
    more_bytes: int = 0
    available: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """A replica's memory in bytes, and what fits into it.

    Attributes:
        process: Python and its libraries.
        weights: The model when it is loaded.
        cache: The KV cache as far as it is used.
        step: Tensors of a step, and the rows in flight.
        loading: Most bytes beside the weights while they are made ready, when there is no cache and no step yet.
        planned: Sequences and blocks that the engine plans; None: not even one sequence fits.
        why: Why not.
    """

    process: int
    weights: int
    cache: int
    step: int
    loading: int
    planned: MemoryPlan | None
    why: str = ""

    @property
    def total(self) -> int:
        """The most that it takes at any time."""
        return self.process + self.weights + max(self.cache + self.step, self.loading)


@dataclass(frozen=True, slots=True)
class Time:
    """Seconds of a run, one after the other.

    Attributes:
        start: Until the replicas are there and have imported their libraries.
        load: To read the weights and make the model ready.
        run: To generate.
        finish: To write the last parts, the card and the manifest.
    """

    start: float
    load: float
    run: float
    finish: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.start + self.load + self.run + self.finish


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job takes.

    Attributes:
        plan: The plan.
        place: Where its replicas run.
        scoring: Whether given tokens are scored, and none is generated.
        sample: Rows that were looked at; None: the engine does not give its tokenizer before it is built.
        completion_tokens: Tokens that are generated, or scored.
        upper_bound: Whether completions may well become shorter.
        ended: Share of the completions of an earlier run that ended before `max_tokens`; None: no such run is known.
        clamped: Rows whose `max_tokens` the context clamps.
        disk: The size of the output.
        calibration: What was measured of the model; None: nothing.
        memory: A replica's memory; None: unknown.
        simulated: A replica's steps; None: unknown.
        time: The run's time; None: unknown.
    """

    plan: Plan
    place: Place
    scoring: bool
    sample: Sample | None
    completion_tokens: int = 0
    upper_bound: bool = False
    ended: float | None = None
    clamped: int = 0
    disk: Disk | None = None
    calibration: Calibration | None = None
    memory: Memory | None = None
    simulated: Simulated | None = None
    time: Time | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, as the manifest counts them."""
        if self.sample is None:
            return 0
        return round(sum(row.prompt_tokens for row in self.sample.rows) * self.sample.share)

    @property
    def errors(self) -> Mapping[str, int]:
        """Error code → rows."""
        return {} if self.sample is None else self.sample.errors()

    @property
    def rate(self) -> float | None:
        """Tokens per second, generated or scored, of all replicas while they generate."""
        return self.completion_tokens / self.time.run if self.time is not None and self.time.run > 0 else None

    @property
    def limit(self) -> float | None:
        """Generated tokens per second that the machines allow."""
        found = self.simulated
        return found.tokens / found.limit * self.place.replicas if found is not None and found.limit > 0 else None

    def prediction(self) -> Prediction:
        """Return what is stored with the output."""
        memory = self.memory
        return Prediction(
            rows=self.plan.rows, error_rows=sum(self.errors.values()), prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens, seconds=None if self.time is None else self.time.total,
            tokens_per_second=self.rate, replicas=self.place.replicas,
            sequences=None if memory is None or memory.planned is None else memory.planned.sequences,
            memory_bytes=None if memory is None else memory.total,
            weight_bytes=None if memory is None else memory.weights,
            cache_bytes=None if memory is None else memory.cache,
            activation_bytes=None if memory is None else memory.step,
            output_bytes=None if self.disk is None else self.disk.bytes, limit_tokens_per_second=self.limit,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is looked at.

    Attributes:
        rows: Rows of the sample.
        steps: Simulated steps.
    """

    rows: int
    steps: int


THOROUGH, QUICK = Effort(1024, 6000), Effort(256, 1000)
"""For a person who asks, and for a job that begins."""


def estimate(
    job: Job, config: GenerateConfig, place: Place, weight_bytes: int, backend: object,
    calibration: Calibration | None, effort: Effort = THOROUGH, *, quick: bool = False,
) -> Estimate:  # fmt: skip
    """Estimate what a job takes.

    Args:
        job: The job.
        config: Its configuration.
        place: Where its replicas run.
        weight_bytes: Size of the model's weights in their files.
        backend: Its engine's backend; if it is no `Foreseeable`, only the plan is known.
        calibration: What was measured of the model on this machine; None: nothing, so that memory and time are unknown.
        effort: How much to look at.
        quick: Import no large library for it.

    Raises:
        CorruptInput: If a page of the sample cannot be decoded.
        InputRefused: If a file is not the planned one.
    """
    scoring = isinstance(config, ScoreConfig)
    tokenizer = backend.tokenizer(quick=quick) if isinstance(backend, Foreseeable) else None
    if tokenizer is None:
        return Estimate(job.plan, place, scoring, None)
    max_len = int(job.plan.fingerprint["engine"]["max_model_len"])
    recipe = open_recipe(job.plan.fingerprint)
    sample = take_sample(job, tokenizer, max_len, effort.rows)
    early = not scoring and ends_early(job.sampling)
    key = key_of_endings(job.plan.fingerprint["model"]["content"], job.sampling)
    lengths = Lengths(max_len, known_endings(key) if early else None)
    tokens, clamped = _tokens(sample, recipe, lengths)
    found = Estimate(
        job.plan, place, scoring, sample, tokens, early and lengths.endings is None,
        None if lengths.endings is None else lengths.endings.stopped / max(1, lengths.endings.completions), clamped,
        estimate_disk(job, recipe, sample, lengths, tokenizer), calibration,
    )  # fmt: skip
    if calibration is None:
        return found
    planned, why = _planned(calibration, config, place, max_len)
    if planned is None:
        return replace(found, memory=_memory(calibration, place, None, Simulated(), 0, why))
    mine = -(-job.plan.shard_count // place.replicas)  # shards of the replica that has most
    expected = math.ceil(job.plan.rows * job.sampling.n / place.replicas)
    setup = Setup(
        planned, calibration.needs.most_tokens, share=config.engine.prefix_caching and not config.stats.prompt_logprobs,
        threads=place.threads, expected=expected, max_scored=calibration.most_scored,
    )  # fmt: skip
    shards = shards_of(sample, recipe, lengths, job.plan.rows_per_shard, mine)
    simulated = simulate(shards, calibration, setup, effort.steps)
    likely = likely_blocks(
        planned, expected, block_bytes=calibration.needs.block_bytes, available=_free(calibration, place)
    )
    memory = _memory(calibration, place, planned, simulated, likely, "")
    return replace(found, memory=memory, simulated=simulated, time=_time(found, simulated, weight_bytes, mine, likely))


def _tokens(sample: Sample, recipe: Recipe, lengths: Lengths) -> tuple[int, int]:
    """Return (tokens that the job generates, rows whose `max_tokens` is clamped)."""
    tokens = number = clamped = 0
    for row in sample.good:
        clamped += not row.passages and len(row.prompt_token_ids) + row.sampling.max_tokens > lengths.max_len
        for request in recipe.requests(row):
            tokens += lengths.expected(request, number)
            number += 1
    return round(tokens * sample.share), round(clamped * sample.share)


def _free(calibration: Calibration, place: Place) -> int | None:
    """Return the bytes that a replica finds free when its model is loaded."""
    if place.available is None:
        return None
    loaded = (calibration.weights + calibration.process // 2) * place.together  # half of a process are shared libraries
    return max(0, place.available - loaded) // place.together


def _planned(
    calibration: Calibration, config: GenerateConfig, place: Place, max_len: int
) -> tuple[MemoryPlan | None, str]:
    """Return what the engine will plan, or why it cannot."""
    try:
        return calibration.needs.plan(config.engine.sequences, max_len, _free(calibration, place)), ""
    except ModelRefused as error:
        return None, str(error)


def _memory(
    calibration: Calibration, place: Place, planned: MemoryPlan | None, simulated: Simulated, likely: int, why: str
) -> Memory:
    running, blocks = simulated.running, max(likely, simulated.blocks)
    cache = 0 if planned is None else held_by_blocks(
        blocks, planned, block_bytes=calibration.needs.block_bytes, layers=calibration.layers,
        page_bytes=huge_page_bytes(),
    )  # fmt: skip
    step = round(at(calibration.step, running)) if running else 0
    process = calibration.process + place.more_bytes
    return Memory(process, calibration.weights, cache, step, calibration.transient, planned, why)


def _time(found: Estimate, simulated: Simulated, weight_bytes: int, shards: int, likely: int) -> Time:
    """Add up the time of the replica that has most to do."""
    calibration, place, plan = found.calibration, found.place, found.plan
    assert calibration is not None and found.sample is not None and found.disk is not None
    rows = min(plan.rows, shards * plan.rows_per_shard)
    tokens = found.completion_tokens * rows / max(1, plan.rows)
    # other threads do it, and take the time from those that compute
    beside = (found.sample.row_seconds + found.disk.row_seconds) * rows
    last = found.disk.row_seconds * min(rows, plan.rows_per_shard)
    load = weight_bytes / READING + calibration.packing + calibration.taking * likely * calibration.needs.block_bytes
    return Time(place.start + calibration.importing, load, simulated.whole(tokens) + beside, last + 0.2)
