"""Counts the rows, tokens and errors of a part, or of all parts."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.output.scores.figures import Sums
from pipeline.types import FinishReason, PromptRow


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts of a part.

    `rows` are input rows, `completions` output rows. A prompt's tokens count once, however many samples it has.
    `errors` counts output rows by error code, `finish_reasons` by finish reason. `lengths` has the least and the greatest
    number of tokens generated for an output row without an error (`shortest`, `longest`); empty if there is no such row.
    `clamped_rows` counts input rows whose prompt leaves less of the context than `max_tokens`, `cut_off` output rows that
    followed a grammar and ended by `length`. `finish_reasons`, `lengths`, `clamped_rows` and `cut_off` are empty or 0 for parts
    of earlier versions. `sums` has what is added up of scored texts.
    """

    rows: int = 0
    completions: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    finish_reasons: Mapping[str, int] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    clamped_rows: int = 0
    cut_off: int = 0
    sums: Mapping[str, float] = field(default_factory=dict)


def count_rows(rows: Sequence[PromptRow], table: pa.Table, max_model_len: int | None = None) -> Counts:
    """Count a part.

    Args:
        rows: Its input rows.
        table: Its output rows, with `error_code`; a recipe without `completion_tokens` or `finish_reason` generates nothing.
        max_model_len: Limit of prompt plus completion, tokens; None: it clamps no row.
    """
    codes = collections.Counter(code for code in table.column("error_code").to_pylist() if code is not None)
    errors = dict(sorted(codes.items()))
    prompts = sum(row.prompt_tokens for row in rows)
    if not {"completion_tokens", "finish_reason"} <= set(table.column_names):
        sums = Sums()
        sums.add(table)
        return Counts(len(rows), table.num_rows, prompts, errors=errors, sums=sums.totals())
    generated: list[Any] = table.column("completion_tokens").to_pylist()
    reasons: list[Any] = table.column("finish_reason").to_pylist()
    structured = [row.sampling.structured is not None for row in rows for _ in range(row.sampling.n)]
    return Counts(
        rows=len(rows),
        completions=table.num_rows,
        prompt_tokens=prompts,
        completion_tokens=sum(generated),
        errors=errors,
        finish_reasons=dict(sorted(collections.Counter(reasons).items())),
        lengths=lengths_of(n for n, reason in zip(generated, reasons, strict=True) if reason != FinishReason.ERROR),
        clamped_rows=sum(
            max_model_len is not None and len(row.prompt_token_ids) + row.sampling.max_tokens > max_model_len
            for row in rows if row.error is None
        ),
        cut_off=sum(reason == FinishReason.LENGTH and of for reason, of in zip(reasons, structured, strict=True)),
    )  # fmt: skip


def lengths_of(tokens: Iterable[int]) -> dict[str, int]:
    """Return the least and the greatest number of tokens in the form of `Counts.lengths`."""
    found = list(tokens)
    return {"shortest": min(found), "longest": max(found)} if found else {}


def total(counts: Iterable[Counts]) -> Counts:
    """Add up the counts of several parts."""
    errors, reasons = collections.Counter[str](), collections.Counter[str]()
    rows = completions = prompt_tokens = completion_tokens = clamped_rows = cut_off = 0
    lengths: list[int] = []
    sums: dict[str, list[float]] = {}
    for count in counts:
        rows, completions = rows + count.rows, completions + count.completions
        prompt_tokens += count.prompt_tokens
        completion_tokens += count.completion_tokens
        clamped_rows, cut_off = clamped_rows + count.clamped_rows, cut_off + count.cut_off
        errors.update(count.errors)
        reasons.update(count.finish_reasons)
        lengths = list(lengths_of([*lengths, *count.lengths.values()]).values())
        for name, value in count.sums.items():
            sums.setdefault(name, []).append(value)
    return Counts(
        rows, completions, prompt_tokens, completion_tokens, dict(sorted(errors.items())), dict(sorted(reasons.items())),
        lengths_of(lengths), clamped_rows, cut_off, {name: math.fsum(terms) for name, terms in sums.items()},
    )  # fmt: skip
