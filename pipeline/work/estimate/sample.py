"""Makes a sample of a job's rows ready: always the same rows, spread evenly over the files and their row groups."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.planning.plan import Plan
from pipeline.prompts.rows import RowBuilder
from pipeline.prompts.scored.builder import ScoredBuilder
from pipeline.prompts.scored.config import ScoreOptions, ScoreSource
from pipeline.prompts.scored.corpus import stretches
from pipeline.prompts.shard import ShardRows
from pipeline.types import PromptRow, Segment, Shard, Task, Tokenizer
from pipeline.work.job import Job

STRETCH = 32
"""Consecutive rows that are taken at a place, as reading one costs nearly as much."""
_MOST_CHARACTERS = 32 << 20
"""Characters of prompts after which no more rows are taken."""
QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of a job, made ready.

    Attributes:
        rows: The rows.
        kept: The columns of them that the output keeps.
        total: Rows of the whole job.
        row_seconds: Seconds to read and tokenise one.
    """

    rows: tuple[PromptRow, ...]
    kept: pa.Table
    total: int
    row_seconds: float

    @property
    def share(self) -> float:
        """Rows of the job for each row of the sample."""
        return self.total / len(self.rows) if self.rows else 0.0

    @property
    def good(self) -> list[PromptRow]:
        """The rows without an error."""
        return [row for row in self.rows if row.error is None]

    def errors(self) -> dict[str, int]:
        """Error code → rows of the job that are expected to have it."""
        found = Counter(row.error.code.value for row in self.rows if row.error is not None)
        return {code: round(number * self.share) for code, number in found.most_common()}

    def lengths(self) -> list[int]:
        """Return the prompt tokens at QUANTILES; an empty list if no row has a prompt."""
        found = sorted(len(row.prompt_token_ids) for row in self.good)
        return [found[round(q * (len(found) - 1))] for q in QUANTILES] if found else []


def take_sample(job: Job, tokenizer: Tokenizer, max_model_len: int, most: int) -> Sample:
    """Read and tokenise rows of a job.

    Args:
        job: The job.
        tokenizer: The model's.
        max_model_len: Longest prompt plus generation, tokens.
        most: Most rows; if the job has no more, all are taken.

    Raises:
        CorruptInput: If a page cannot be decoded.
        InputRefused: If a file is not the planned one.
    """
    builder = _builder(job, tokenizer, max_model_len)
    reader = ShardRows(job.source, builder, job.plan.files, job.columns)
    found: dict[int, tuple[list[PromptRow], pa.Table]] = {}
    characters, began = 0, time.perf_counter()
    for start, stop in places(job.plan.rows, most):
        if characters > _MOST_CHARACTERS:
            break
        found[start] = reader.read(Task(Shard(0, 1, tuple(segments(job.plan, start, stop)))))
        characters += sum(len(row.prompt or "") for row in found[start][0])
    rows = _joined(job, [row for start in sorted(found) for row in found[start][0]], tokenizer)
    seconds = time.perf_counter() - began
    kept = [found[start][1] for start in sorted(found)]
    return Sample(rows, pa.concat_tables(kept) if kept else pa.table({}), job.plan.rows, seconds / max(1, len(rows)))


def _builder(job: Job, tokenizer: Tokenizer, max_model_len: int) -> RowBuilder:
    """Return what makes the rows of the job."""
    if not isinstance(job.source, ScoreSource):
        return RowBuilder(job.source, job.sampling, tokenizer, max_model_len, job.plan.files)
    options = ScoreOptions(**job.plan.fingerprint["score"])
    return ScoredBuilder(job.source, options, job.sampling, tokenizer, max_model_len, job.plan.files)


def _joined(job: Job, rows: Sequence[PromptRow], tokenizer: Tokenizer) -> tuple[PromptRow, ...]:
    """Return the rows; if the job scores all of them as one long text, as stretches of that of the sample."""
    if not isinstance(job.source, ScoreSource) or not job.plan.fingerprint["score"]["concatenate"]:
        return tuple(rows)
    options = ScoreOptions(**job.plan.fingerprint["score"])
    made, led = [], False
    for row in stretches(rows, options, tokenizer, job.source.add_special_tokens):
        made.append(replace(row, passages=tuple(replace(p, leads=not led) for p in row.passages)))
        led = led or bool(row.prompt_token_ids)
    return tuple(made)


def places(rows: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield (first row, end) of the stretches to take, such that the first few are spread evenly, too."""
    if rows <= most:
        count = -(-rows // STRETCH)
        bounds = [(i * STRETCH, min(rows, (i + 1) * STRETCH)) for i in range(count)]
    else:
        count = max(1, most // STRETCH)
        firsts = [(rows - STRETCH) * i // max(1, count - 1) for i in range(count)]
        bounds = [(first, first + STRETCH) for first in firsts]
    bits = max(1, (count - 1).bit_length())
    order = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(1 << bits))
    yield from (bounds[i] for i in order if i < count)


def segments(plan: Plan, start: int, stop: int) -> Iterator[Segment]:
    """Yield where rows `start` to `stop` of a plan are."""
    row = start
    while row < stop:
        offset = row % plan.rows_per_shard
        first = plan.shard(row // plan.rows_per_shard)
        for segment in first.segments:
            rows = segment.stop - segment.start
            if offset >= rows:
                offset -= rows
                continue
            taken = min(rows - offset, stop - row)
            yield Segment(segment.file, segment.start + offset, segment.start + offset + taken)
            row, offset = row + taken, 0
            if row == stop:
                return
