"""Counts rows, tokens, lengths, finish reasons and errors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.inspect.batch import Batch, Lists, Mask
from pipeline.types import FinishReason

Counts = npt.NDArray[np.int64]
LONGEST = 1 << 20
"""Texts of more tokens are counted as this long."""
OCTAVES = 33
"""Classes of prompt lengths: none, 1, 2 to 3, 4 to 7, and so on."""
EXAMPLES = 3
"""Most examples per error code."""


@dataclass(frozen=True, slots=True)
class ErrorExample:
    """A row that became an error; the prompt is None where none was written."""

    row_id: str
    message: str
    prompt: str | None


@dataclass
class Tally:
    """The counts.

    Attributes:
        rows: Input rows.
        completions: Output rows.
        prompt_tokens: Tokens of prompts, once per input row.
        completion_tokens: Generated tokens.
        lengths: Finish reason → number of texts of each length [L], tokens.
        by_prompt: Finish reason → number of texts per class of prompt length [OCTAVES].
        errors: Error code → output rows.
        error_rows: Input rows whose first output row is an error.
        examples: Error code → its first rows.
    """

    rows: int = 0
    completions: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    lengths: dict[str, Counts] = field(default_factory=dict)
    by_prompt: dict[str, Counts] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    error_rows: int = 0
    examples: dict[str, list[ErrorExample]] = field(default_factory=dict)

    def add(self, batch: Batch, ids: Lists) -> None:
        """Count a batch, whose token ids are `ids`."""
        size = batch.rows.num_rows
        first = batch.values("sample_index") == 0 if batch.has("sample_index") else np.ones(size, np.bool_)
        prompts = (
            batch.values("prompt_tokens").astype(np.int64) if batch.has("prompt_tokens") else np.zeros(size, np.int64)
        )
        made = batch.values("completion_tokens").astype(np.int64) if batch.has("completion_tokens") else ids.lengths
        self.rows += int(first.sum())
        self.completions += size
        self.prompt_tokens += int(prompts[first].sum())
        self.completion_tokens += int(made.sum())
        octave = np.where(prompts > 0, np.frexp(np.maximum(prompts, 1))[1], 0)
        reasons = reasons_of(batch)
        for reason in sorted(set(reasons.tolist())):
            mine = reasons == reason
            _count(self.by_prompt, reason, octave[mine], OCTAVES)
            if reason != FinishReason.ERROR:
                _count(self.lengths, reason, np.minimum(made[mine], LONGEST))
        if batch.has("error_code"):
            self._count_errors(batch, first)

    def _count_errors(self, batch: Batch, first: Mask) -> None:
        wrong = np.flatnonzero(~batch.null("error_code"))
        self.error_rows += int(first[wrong].sum())
        if not len(wrong):
            return
        codes = [str(code) for code in batch.values("error_code", "")[wrong]]
        self.errors.update(codes)
        for at, code in zip(wrong.tolist(), codes, strict=True):
            known = self.examples.setdefault(code, [])
            if len(known) < EXAMPLES:
                row: dict[str, Any] = batch.rows.slice(at, 1).to_pylist()[0]
                known.append(ErrorExample(str(row["row_id"]), row.get("error_message") or "", row.get("prompt")))


def reasons_of(batch: Batch) -> npt.NDArray[Any]:
    """Return the finish reason of each row [R]; where a job generates nothing, `scored` or `error`."""
    if batch.has("finish_reason"):
        return batch.values("finish_reason", "").astype(str)
    if batch.has("error_code"):
        return np.where(batch.null("error_code"), "scored", str(FinishReason.ERROR))
    return np.full(batch.rows.num_rows, "scored")


def _count(into: dict[str, Counts], key: str, values: npt.NDArray[np.int64], size: int = 0) -> None:
    found = np.bincount(values, minlength=size).astype(np.int64)
    before = into.get(key, np.zeros(0, np.int64))
    total = np.zeros(max(len(found), len(before)), np.int64)
    total[: len(before)] += before
    total[: len(found)] += found
    into[key] = total
