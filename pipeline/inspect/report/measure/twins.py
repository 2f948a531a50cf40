"""Finds samples of one prompt that are nearly the same text.

Two texts are compared by their 3-grams of tokens: MinHash (Broder 1997) estimates what share of both is common to them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.inspect.batch import Batch, Lists
from pipeline.inspect.report.measure.phrases import Hashes, mixed, ngrams

SIZE = 3
HASHES = 64
"""Of a signature: the estimate of a share s has a standard error of √(s(1-s)/64), 0.05 at 0.8."""
NEAR = 0.8
LAGS = 15
"""A sample is compared with so many that follow it."""
EXAMPLES = 3
_KEYS = mixed(np.arange(HASHES, dtype=np.uint64)) | np.uint64(1)
"""Odd factors: each orders the hashes in another way."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two samples of a prompt, what share of their 3-grams is common, and their texts."""

    row_id: str
    samples: tuple[int, int]
    share: float
    texts: tuple[str, str]


@dataclass
class Twins:
    """What was found so far.

    Attributes:
        prompts: Prompts with two samples that were compared.
        prompts_near: Those with a pair that is nearly the same.
        pairs: Pairs compared.
        near: Pairs that have `NEAR` or more in common; equal ones included.
        equal: Pairs of the same tokens.
        examples: Some of the pairs that are nearly and not quite the same, or else equal ones.
    """

    prompts: int = 0
    prompts_near: int = 0
    pairs: int = 0
    near: int = 0
    equal: int = 0
    examples: list[Pair] = field(default_factory=list)
    _rows: list[dict[str, Any]] = field(default_factory=list)
    _signatures: Hashes = field(default_factory=lambda: np.zeros((0, HASHES), np.uint64))
    _whole: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))
    _prompt: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _last: str | None = None
    _ordinal: int = -1
    _seen: set[int] = field(default_factory=set)
    _flagged: set[int] = field(default_factory=set)

    def add(self, batch: Batch, ids: Lists) -> None:
        """Add the rows of a batch, which follow those of the batch before."""
        if not batch.has("token_ids"):
            return
        if batch.has("sample_index") and not batch.values("sample_index").any():
            # All are first samples: only the last of them may have others, in the next batch.
            batch = Batch(batch.rows.slice(batch.rows.num_rows - 1))
            ids = batch.lists("token_ids")
        names = batch.values("row_id", "")
        kept = len(self._rows)
        before = [self._last, *names[:-1].tolist()]
        ordinals = self._ordinal + np.cumsum([a != b for a, b in zip(names.tolist(), before, strict=True)])
        self._last, self._ordinal = str(names[-1]), int(ordinals[-1])
        columns = [c for c in ("row_id", "sample_index", "text") if batch.has(c)]
        table = batch.rows.select(columns)
        signatures = np.concatenate([self._signatures, _signatures(ids)])
        whole = np.concatenate([self._whole, _whole(ids)])
        prompt = np.concatenate([self._prompt, ordinals])

        def row(at: int) -> dict[str, Any]:
            if at < kept:
                return self._rows[at]
            found: dict[str, Any] = table.slice(at - kept, 1).to_pylist()[0]
            return found

        for lag in range(1, min(LAGS, len(prompt) - 1) + 1):
            self._compare(prompt, signatures, whole, lag, kept, row)
        tail = max(0, len(prompt) - LAGS)
        self._rows = [row(at) for at in range(tail, len(prompt))]
        self._signatures, self._whole, self._prompt = signatures[tail:], whole[tail:], prompt[tail:]
        least = int(self._prompt[0])
        self._seen = {o for o in self._seen if o >= least}
        self._flagged = {o for o in self._flagged if o >= least}

    def _compare(
        self, prompt: npt.NDArray[np.int64], signatures: Hashes, whole: Hashes, lag: int, kept: int, row: Any
    ) -> None:
        """Compare rows with those `lag` further on; pairs of which both were there before have been compared."""
        start = max(0, kept - lag)
        one, other = np.arange(start, len(prompt) - lag), np.arange(start + lag, len(prompt))
        pairs = (prompt[one] == prompt[other]) & (whole[one] != 0) & (whole[other] != 0)
        one, other = one[pairs], other[pairs]
        if not len(one):
            return
        share = (signatures[one] == signatures[other]).mean(axis=1)
        equal = whole[one] == whole[other]
        near = (share >= NEAR) | equal
        self.pairs, self.near, self.equal = (
            self.pairs + len(one),
            self.near + int(near.sum()),
            self.equal + int(equal.sum()),
        )
        self.prompts += _new(self._seen, prompt[one])
        self.prompts_near += _new(self._flagged, prompt[one][near])
        if len(self.examples) < EXAMPLES:
            for at in np.flatnonzero(near)[: EXAMPLES - len(self.examples)].tolist():
                a, b = row(int(one[at])), row(int(other[at]))
                self.examples.append(Pair(
                    str(a["row_id"]), (a.get("sample_index", 0), b.get("sample_index", 0)), float(share[at]),
                    (a.get("text") or "", b.get("text") or ""),
                ))  # fmt: skip


def _new(known: set[int], found: npt.NDArray[np.int64]) -> int:
    fresh = set(np.unique(found).tolist()) - known
    known |= fresh
    return len(fresh)


def _signatures(ids: Lists) -> Hashes:
    """Return the signature of each row [R, HASHES]; of a row without 3-grams that of its tokens."""
    rows = len(ids.lengths)
    made = np.zeros((rows, HASHES), np.uint64)
    for _, hashes, starts in ngrams(ids, (1, SIZE)):
        owner = ids.owner[starts]
        having, first = np.unique(owner, return_index=True)
        if not len(having):
            continue
        with np.errstate(over="ignore"):
            for k in range(HASHES):
                made[having, k] = np.minimum.reduceat(hashes * _KEYS[k], first)
    return made


def _whole(ids: Lists) -> Hashes:
    """Return a hash of all tokens of each row, in order [R]; 0 for a row without tokens."""
    place = (np.arange(len(ids.values)) - ids.first[ids.owner]).astype(np.uint64)
    with np.errstate(over="ignore"):
        values = mixed(mixed(ids.values.astype(np.int64).astype(np.uint64)) + mixed(place))
    made = np.zeros(len(ids.lengths), np.uint64)
    having = np.flatnonzero(ids.lengths)
    if len(having):
        made[having] = np.add.reduceat(values, ids.first[having]) | np.uint64(1)
    return made
