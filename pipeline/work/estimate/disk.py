"""Estimates the size of an output: real rows of a sample with made-up completions, through the job's own table and encoder."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.output.part import encode_part
from pipeline.statistics import STATISTICS
from pipeline.types import Completion, FinishReason, PromptRow, Request, Tokenizer
from pipeline.work.estimate.expect import Lengths
from pipeline.work.estimate.sample import Sample
from pipeline.work.job import Job
from pipeline.work.recipe import Recipe

_MOST_TOKENS = 100_000
"""Made-up tokens after which no more rows are encoded."""
_SCALE, _HEAVY = 2.0, 1.2
"""Mean of made-up entropies and negative log-probabilities, nats; and how the logarithms of ranks spread."""
_META = {"promptmill.report": "x" * 400, "promptmill.environment": "x" * 600}
"""As long as the footer entries of a part."""


@dataclass(frozen=True, slots=True)
class Disk:
    """The size of an output.

    Attributes:
        bytes: Of all parts.
        row_seconds: Seconds to encode the output rows of one input row.
    """

    bytes: int
    row_seconds: float


def estimate_disk(job: Job, recipe: Recipe, sample: Sample, lengths: Lengths, tokenizer: Tokenizer) -> Disk:
    """Encode some rows of a sample, and scale the size up."""
    rows: list[PromptRow] = []
    made: dict[tuple[int, int], Completion] = {}
    maker, tokens = _Maker(job, sample, tokenizer), 0
    for place, row in enumerate(sample.rows):
        if tokens > _MOST_TOKENS:
            break
        rows.append(row)
        for request in recipe.requests(row):
            completion = maker.completion(request, lengths.expected(request, len(made)))
            tokens += len(completion.token_ids)
            made[place, request.sample_index] = completion
    began = time.perf_counter()
    table = recipe.table(job.schema, rows, made, sample.kept.slice(0, len(rows)))
    size = len(encode_part(table, job.output, _META))
    seconds = time.perf_counter() - began
    # a part of one row is nearly all footer and page headers
    one = len(encode_part(table.slice(0, 1), job.output, _META))
    per_row = max(0, size - one) / max(1, table.num_rows - 1) * table.num_rows / max(1, len(rows))
    return Disk(round(per_row * sample.total + one * job.plan.shard_count), seconds / max(1, len(rows)))


class _Maker:
    """Makes up completions from the tokens of prompts, with statistics that are as hard to compress as real ones."""

    def __init__(self, job: Job, sample: Sample, tokenizer: Tokenizer) -> None:
        """Collect tokens."""
        self._random, self._tokenizer, self._stats = np.random.default_rng(0), tokenizer, job.stats
        found = [token for row in sample.good[:200] for token in row.prompt_token_ids[:200]]
        self._tokens = np.array(found or [0], np.int64)

    def completion(self, request: Request, length: int) -> Completion:
        """Make up a completion, or the statistics of what is scored."""
        if request.scored_from is not None:
            ids = request.prompt_token_ids[request.scored_from :]
            return Completion(request, ids, statistics=self._statistics(length))
        # words in their order, as text is compressed by its repetitions
        start = int(self._random.integers(len(self._tokens)))
        made = [int(token) for token in np.resize(np.roll(self._tokens, -start), length)]
        change = self._random.random(length) < 0.5
        other = self._random.choice(self._tokens, length)
        made = [int(o) if c else i for i, o, c in zip(made, other, change, strict=True)]
        prompt = None
        if self._stats.prompt_logprobs:
            prompt = -self._random.exponential(_SCALE, len(request.prompt_token_ids)).astype(np.float32)
            prompt[:1] = np.nan
        return Completion(
            request,
            tuple(made),
            self._tokenizer.decode(made),
            FinishReason.LENGTH,
            None,
            self._statistics(length),
            prompt,
        )

    def _statistics(self, length: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for statistic in STATISTICS.values():
            if statistic.whole:
                values = np.exp(self._random.exponential(_HEAVY, length)).clip(1, self._tokenizer.vocab_size)
                found[statistic.column] = values.astype(np.int32)
            else:
                sign = -1 if statistic.bounds(self._tokenizer.vocab_size)[0] == -np.inf else 1
                found[statistic.column] = (sign * self._random.exponential(_SCALE, length)).astype(np.float32)
        if k := self._stats.top_logprobs:
            found["top_token_ids"] = self._random.choice(self._tokens, (length, k)).astype(np.int32)
            found["top_token_logprobs"] = -self._random.exponential(_SCALE, (length, k)).astype(np.float32)
        return found
