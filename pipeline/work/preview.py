"""A few rows of a job through the real engine, in this process, with nothing written."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipeline.engine.base import Resources
from pipeline.planning.plan import Plan
from pipeline.types import Completion, PromptRow, Segment, Shard, Task, Tokenizer
from pipeline.work.config import GenerateConfig
from pipeline.work.opened import open_job
from pipeline.work.prepare import Prepared, prepare

RANK = "rank"
"""The statistic by which completions are coloured."""


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """A row and what came of it.

    Attributes:
        row: The row made ready, or its error.
        completions: Its completions, by sample.
        seconds: From the start of the engine until the last of them ended.
    """

    row: PromptRow
    completions: tuple[Completion, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Preview:
    """What a preview found.

    Attributes:
        plan: The plan of the whole job.
        rows: The rows, in their order.
        seconds: Time of the engine for all of them.
        most: Sequences that the engine may run at once.
        tokenizer: Spells their tokens.
    """

    plan: Plan
    rows: tuple[PreviewRow, ...]
    seconds: float
    most: int
    tokenizer: Tokenizer

    @property
    def tokens(self) -> int:
        """Tokens that were generated."""
        return sum(len(c.token_ids) for row in self.rows for c in row.completions)

    @property
    def completions(self) -> int:
        """Completions that were made."""
        return sum(len(row.completions) for row in self.rows)

    def whole(self) -> tuple[float, float] | None:
        """Tokens and seconds of the whole job by these rows; None where nothing was generated.

        The rows stand for all rows: their share of errors, their number of tokens, and the rate at which they were made.
        """
        if not self.tokens or self.seconds <= 0:
            return None
        share = self.plan.rows / len(self.rows)
        return self.tokens * share, self.seconds * share


def preview(config: GenerateConfig, threads: int, note: Callable[[str], None], stage: Callable[[str], None]) -> Preview:
    """Generate the first rows, or rows spread evenly.

    Args:
        config: The job; `preview` says how many rows.
        threads: Processor threads of the engine.
        note: Takes a line for the person who waits.
        stage: Takes what is going on now.

    Raises:
        PromptmillError: If the job is refused, or its model or input cannot be used here.
    """
    assert config.preview is not None
    stage("checking the input and the model's files")
    prepared = prepare(config)
    for line in prepared.notes:
        note(line)
    for doubt in prepared.doubts:
        note(f"WARNING: {doubt}")
    places = _places(prepared.job.plan.rows, config.preview, spread=config.preview_random)
    note(f"loading the model for {len(places)} of {prepared.job.plan.rows:,} rows")
    stage("loading and generating")
    return _generated(prepared, [_segment(prepared.job.plan, place) for place in places], threads)


def _places(rows: int, count: int, *, spread: bool) -> list[int]:
    """The numbers of the rows: the first ones, or one from each of `count` equal stretches."""
    count = min(rows, count)
    return [i * rows // count if spread else i for i in range(count)]


def _segment(plan: Plan, place: int) -> Segment:
    """A row of the plan as a segment of one."""
    return plan.shard(place // plan.rows_per_shard).row(place % plan.rows_per_shard)


def _generated(prepared: Prepared, segments: Sequence[Segment], threads: int) -> Preview:
    job = prepared.job
    names = [*job.stats.columns, *([RANK] if RANK in prepared.statistics - set(job.stats.columns) else [])]
    expected = len(segments) * job.sampling.n
    opened = open_job(job, Resources(job.device, threads, expected=expected), replace(job.stats, columns=names))
    rows, _ = opened.rows.read(Task(Shard(0, 1, tuple(segments))))
    requests = [(place, request) for place, row in enumerate(rows) for request in opened.recipe.requests(row)]
    place_of = {(request.row_id, request.sample_index): place for place, request in requests}
    found: list[dict[int, Completion]] = [{} for _ in rows]
    ended = [0.0] * len(rows)
    started = time.perf_counter()
    opened.engine.add([request for _, request in requests])
    while sum(map(len, found)) < len(requests):
        for completion in opened.engine.step():
            place = place_of[completion.request.row_id, completion.request.sample_index]
            found[place][completion.request.sample_index] = completion
            ended[place] = time.perf_counter() - started
    seconds = time.perf_counter() - started
    made = tuple(
        PreviewRow(row, tuple(done[sample] for sample in sorted(done)), end)
        for row, done, end in zip(rows, found, ended, strict=True)
    )
    return Preview(job.plan, made, seconds, opened.engine.room.max_num_seqs, opened.built.tokenizer)
