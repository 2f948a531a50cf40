"""Publishes the progress of a run as counters and gauges for Prometheus."""

from __future__ import annotations

import datetime
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.run.show.snapshot import RunSnapshot, TimeLeft
from pipeline.types import Progress, ShardReport

FINISHED = "finished"
"""The reason of a driver that stopped because no shard was left. Otherwise it is the name of the exception that ended it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name and meaning, and its tags besides those of the run.

    A name that ends in `_total` is a counter's, any other a gauge's.
    """

    name: str
    meaning: str
    tags: tuple[str, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether it only grows."""
        return self.name.endswith("_total")


RUN_TAGS = ("plan", "driver")
"""Tags of every metric: the plan id's first eight digits, and the driver as its file in `_job/events/` is called."""

METRICS = {
    metric.name: metric
    for metric in (
        Metric("promptmill_driver_starts_total", "1 from the moment at which a driver has replicas."),
        Metric("promptmill_driver_stops_total", f"1 once a driver stopped: {FINISHED}, or an exception.", ("reason",)),
        Metric("promptmill_prompt_tokens_total", "Tokens of the prompts whose completions ended."),
        Metric("promptmill_completion_tokens_total", "Tokens of completions that ended."),
        Metric("promptmill_completions_total", "Completions that ended."),
        Metric("promptmill_engine_seconds_total", "Seconds that engines spent in steps, summed over replicas."),
        Metric("promptmill_engine_steps_total", "Steps of engines, summed over replicas."),
        Metric("promptmill_output_rows_total", "Rows of the parts that this driver's replicas committed."),
        Metric("promptmill_row_errors_total", "Rows among them that are errors.", ("code",)),
        Metric("promptmill_replica_deaths_total", "Replicas that crashed, hung or were lost with a node.", ("kind",)),
        Metric("promptmill_rows_planned", "Input rows."),
        Metric("promptmill_rows_done", "Input rows generated, by any driver."),
        Metric("promptmill_shards_planned", "Parts to make."),
        Metric("promptmill_shards_committed", "Parts that are committed, by any driver."),
        Metric("promptmill_replicas", "Replicas that are ready or starting.", ("state",)),
        Metric("promptmill_running_sequences", "Sequences in a replica's batch.", ("replica",)),
        Metric("promptmill_waiting_sequences", "Sequences that wait for a place in it.", ("replica",)),
        Metric("promptmill_max_running_sequences", "Sequences that may run in a replica at once.", ("replica",)),
        Metric("promptmill_kv_blocks_used", "Blocks of a replica's KV cache that are in use.", ("replica",)),
        Metric("promptmill_kv_blocks", "Blocks of a replica's KV cache.", ("replica",)),
        Metric("promptmill_remaining_seconds", "Estimated seconds until all rows are done; absent while not known."),
        Metric("promptmill_deadline_timestamp_seconds", "Unix time of the deadline; absent without one."),
        Metric("promptmill_last_progress_timestamp_seconds", "Unix time at which a replica last got something done."),
        Metric("promptmill_last_seen_timestamp_seconds", "Unix time at which the driver last checked its replicas."),
    )
}
"""All there are."""


class Meter(Protocol):
    """Records numbers and publishes them."""

    def ready(self) -> bool:
        """Whether it accepts numbers now."""

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """Raise a counter by `value`, which is above 0."""

    def set(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """Set a gauge. One that is not set again is soon gone."""


class Metrics:
    """A run's metrics.

    A replica's counts go into counters without its name, which do not shrink when it dies. Its load goes into gauges with
    its name, which are no longer set when it is gone.

    Args:
        meter: Where the numbers go.
        plan: The plan id's first eight digits.
        driver: The driver's id.
        deadline: Local time at which the run stops; None: no deadline.
        starting: How many replicas are starting.
        clock: Unix time in seconds.
    """

    def __init__(
        self, meter: Meter, *, plan: str, driver: str, deadline: datetime.datetime | None, starting: Callable[[], int],
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        """Publish nothing yet."""
        self._meter, self._starting, self._clock = meter, starting, clock
        self._run = {"plan": plan, "driver": driver}
        self._deadline = None if deadline is None else deadline.timestamp()
        self._left = TimeLeft()
        self._output_rows = self._prompt_tokens = self._completion_tokens = 0
        self._errors: Counter[str] = Counter()
        self._deaths: Counter[str] = Counter()
        self._published: dict[tuple[str, tuple[str, ...]], float] = {}
        self._beats: Mapping[str, int] = {}
        self._last_progress = 0.0

    def report(self, report: ShardReport) -> None:
        """Count a committed part, unless another driver or an earlier attempt had committed it."""
        if not report.already_there:
            self._output_rows += report.completions
            self._prompt_tokens += report.prompt_tokens
            self._completion_tokens += report.completion_tokens
            self._errors.update(report.errors)

    def event(self, name: str, facts: Mapping[str, Any]) -> None:
        """Count an event; only deaths of replicas have a metric."""
        if name == "replica_down":
            self._deaths[_kind(facts)] += 1

    def publish(self, snapshot: RunSnapshot, replicas: Mapping[str, Progress], alive: Sequence[str]) -> None:
        """Publish the progress.

        Args:
            snapshot: The state of the run.
            replicas: The last counters of every replica, dead ones included.
            alive: Names of the live replicas.
        """
        if not self._meter.ready():
            return
        self._count("promptmill_driver_starts_total", 1)
        self._count_work(replicas.values())
        self._count("promptmill_output_rows_total", self._output_rows)
        for code, rows in self._errors.items():
            self._count("promptmill_row_errors_total", rows, code)
        for kind, deaths in self._deaths.items():
            self._count("promptmill_replica_deaths_total", deaths, kind)
        self._set("promptmill_rows_planned", snapshot.rows_total)
        self._set("promptmill_rows_done", snapshot.rows_done)
        self._set("promptmill_shards_planned", snapshot.shards_total)
        self._set("promptmill_shards_committed", snapshot.shards_done)
        self._set("promptmill_replicas", len(alive), "ready")
        self._set("promptmill_replicas", self._starting(), "starting")
        for name in alive:
            self._set_load(name, replicas[name])
        self._set_times(snapshot, {name: progress.beats for name, progress in replicas.items()})

    def stop(self, reason: str) -> None:
        """Publish that the driver stops; call `publish` before."""
        if self._meter.ready():
            self._count("promptmill_driver_stops_total", 1, reason)

    def _count_work(self, everyone: Collection[Progress]) -> None:
        """Count the work of all engines, those of dead replicas included.

        A replica's counters may be half a second old, so the last tokens of a dead one are known only from its parts.
        """
        prompt, completion = sum(p.prompt_tokens for p in everyone), sum(p.completion_tokens for p in everyone)
        self._count("promptmill_prompt_tokens_total", max(prompt, self._prompt_tokens))
        self._count("promptmill_completion_tokens_total", max(completion, self._completion_tokens))
        self._count("promptmill_completions_total", sum(p.completions for p in everyone))
        self._count("promptmill_engine_seconds_total", sum(p.engine_seconds for p in everyone))
        self._count("promptmill_engine_steps_total", sum(p.steps for p in everyone))

    def _set_load(self, name: str, progress: Progress) -> None:
        """Publish a replica's load; a cache without blocks has no metrics."""
        self._set("promptmill_running_sequences", progress.running, name)
        self._set("promptmill_waiting_sequences", progress.waiting, name)
        if progress.room.max_num_seqs:  # none before the first step
            self._set("promptmill_max_running_sequences", progress.room.max_num_seqs, name)
        if progress.room.kv_blocks:
            self._set("promptmill_kv_blocks_used", progress.room.kv_blocks_used, name)
            self._set("promptmill_kv_blocks", progress.room.kv_blocks, name)

    def _set_times(self, snapshot: RunSnapshot, beats: Mapping[str, int]) -> None:
        now = self._clock()
        if beats != self._beats or not self._last_progress:
            self._beats, self._last_progress = beats, now
        left = self._left.update(snapshot)
        if left is not None:
            self._set("promptmill_remaining_seconds", left)
        if self._deadline is not None:
            self._set("promptmill_deadline_timestamp_seconds", self._deadline)
        self._set("promptmill_last_progress_timestamp_seconds", self._last_progress)
        self._set("promptmill_last_seen_timestamp_seconds", now)

    def _count(self, name: str, total: float, *values: str) -> None:
        """Raise a counter to a total, if the total has grown."""
        before = self._published.get((name, values), 0)
        if total > before:
            self._meter.add(METRICS[name], total - before, self._tags(name, values))
            self._published[name, values] = total

    def _set(self, name: str, value: float, *values: str) -> None:
        self._meter.set(METRICS[name], value, self._tags(name, values))

    def _tags(self, name: str, values: tuple[str, ...]) -> dict[str, str]:
        return {**self._run, **dict(zip(METRICS[name].tags, values, strict=True))}


def _kind(facts: Mapping[str, Any]) -> str:
    """Return how a replica ended, from the facts of `replica_down`."""
    if not facts["counts"]:
        return "lost"
    return "hung" if facts["reason"].startswith("no progress for") else "crashed"
