"""Counts what is equal and what differs in matched rows, and keeps some of those that differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.inspect.batch import Batch, Lists
from pipeline.inspect.diff.differing import Mask, differing
from pipeline.types import ErrorCode

GENERATED = ("text", "messages", "finish_reason", "stop_reason", "completion_tokens", "token_ids")
PROMPTS = ("prompt", "prompt_tokens", "prompt_token_ids")
LEFT_TO_CHANCE = frozenset({ErrorCode.WORKER_CRASH.value, ErrorCode.TIMEOUT.value})
"""Errors that say what a machine did, not what a row is."""
KINDS = ("errors", "tokens", "statistics", "prompts", "kept")
"""What may differ in a row; the first that does is what the row counts as."""
EXAMPLES = {"errors": 3, "tokens": 8, "statistics": 3, "prompts": 2, "kept": 2}
"""Rows of each kind that are kept."""
_SHOWN_COLUMNS = (
    "row_id", "sample_index", *PROMPTS[:2], *GENERATED, "error_code", "error_message", "token_logprobs", "token_entropies",
    "token_ranks", "top_token_ids", "top_token_logprobs",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Example:
    """A row that differs.

    Attributes:
        kind: One of `KINDS`.
        columns: The columns that differ.
        a: Its values in `a`, by column.
        b: Its values in `b`.
        place: The first token that differs, from 0; None if the tokens are the same, or unknown.
    """

    kind: str
    columns: tuple[str, ...]
    a: Mapping[str, Any]
    b: Mapping[str, Any]
    place: int | None


@dataclass(slots=True)
class Divergence:
    """Where the tokens of rows part.

    Attributes:
        places: First differing token, from 0 → rows.
        ended: Rows where one side ends and the other goes on.
        probabilities: Per side, the sum of the model's probabilities of the first differing token, and their number.
    """

    places: Counter[int] = field(default_factory=Counter)
    ended: int = 0
    probabilities: dict[str, list[float]] = field(default_factory=lambda: {"a": [0.0, 0], "b": [0.0, 0]})

    def probability(self, side: str) -> float | None:
        """The mean probability on one side."""
        total, count = self.probabilities[side]
        return total / count if count else None

    @property
    def median(self) -> int | None:
        """The median of the places."""
        left = self.places.total() / 2
        for place in sorted(self.places):
            left -= self.places[place]
            if left <= 0:
                return place
        return None


@dataclass(slots=True)
class Drift:
    """Differences of log-probabilities of tokens that both sides have and have before them; nats.

    Attributes:
        tokens: Number of such tokens.
        total: Sum of the absolute differences.
        most: The greatest of them.
        where: (row_id, sample_index, token) of that one.
    """

    tokens: int = 0
    total: float = 0.0
    most: float = 0.0
    where: tuple[str, int, int] | None = None

    @property
    def mean(self) -> float | None:
        """Mean absolute difference."""
        return self.total / self.tokens if self.tokens else None


class Tally:
    """What was found in all matched rows.

    Args:
        schema: The columns that are compared.
        kept: Which of them are copies of input columns.
    """

    def __init__(self, schema: pa.Schema, kept: frozenset[str]) -> None:
        """Start with nothing."""
        self._names = [name for name in schema.names if name not in ("row_id", "sample_index")]
        self._kept = kept
        self.equal = 0
        self.kinds: Counter[str] = Counter()
        self.columns: Counter[str] = Counter()
        self.errors: Counter[tuple[str | None, str | None]] = Counter()
        self.blamed = 0
        self.divergence = Divergence()
        self.drift = Drift()
        self.examples: list[Example] = []

    @property
    def different(self) -> int:
        """Rows in which anything differs."""
        return self.kinds.total()

    def add(self, one: pa.RecordBatch, other: pa.RecordBatch) -> None:
        """Compare rows; row i of one is row i of the other."""
        a: Any = one
        b: Any = other
        found = {name: differing(a.column(name), b.column(name)) for name in self._names}
        groups = {"errors": self._errors(a, b)} | {k: np.zeros(a.num_rows, np.bool_) for k in KINDS[1:]}
        for name, mask in found.items():
            self.columns[name] += int(mask.sum())
            groups[self._kind(name)] |= mask
        counted = np.zeros(a.num_rows, np.bool_)
        for kind in KINDS:
            own = groups[kind] & ~counted
            counted |= own
            self.kinds[kind] += int(own.sum())
            groups[kind] = own
        self.equal += int((~counted).sum())
        places = self._tokens(a, b, counted)
        for kind in KINDS:
            self._keep(kind, groups[kind], found, a, b, places)

    def _kind(self, name: str) -> str:
        if name in self._kept:
            return "kept"
        if name in GENERATED:
            return "tokens"
        return "prompts" if name in PROMPTS else "statistics"

    def _errors(self, a: Any, b: Any) -> Mask:
        """Return the rows whose errors are not the same, and count the errors."""
        wrong: Mask = np.zeros(a.num_rows, np.bool_)
        if "error_code" not in self._names:
            return wrong
        codes = [side.column("error_code") for side in (a, b)]
        if all(c.null_count == len(c) for c in codes):
            return wrong
        pairs = list(zip(*(c.to_pylist() for c in codes), strict=True))
        self.errors.update(pair for pair in pairs if pair != (None, None))
        wrong = np.array([mine != its for mine, its in pairs], np.bool_)
        self.blamed += sum(mine != its and bool(LEFT_TO_CHANCE & {mine, its}) for mine, its in pairs)
        return wrong

    def _tokens(self, a: Any, b: Any, different: Mask) -> dict[int, int]:
        """Find where tokens part, and how far log-probabilities are apart before that; return row → place."""
        if "token_ids" not in self._names:
            return {}
        both = ~(Batch(a).null("token_ids") | Batch(b).null("token_ids"))
        has_logprobs = "token_logprobs" in self._names
        if has_logprobs:
            same = a.filter(pa.array(both & ~different))
            self.drift.tokens += int(Batch(same).lists("token_logprobs").lengths.sum())
        rows = np.flatnonzero(both & different)
        if not len(rows):
            return {}
        chosen = pa.array(rows)
        one, other = Batch(a.take(chosen)), Batch(b.take(chosen))
        common = _Common(one.lists("token_ids"), other.lists("token_ids"))
        if has_logprobs:
            logprobs = one.lists("token_logprobs"), other.lists("token_logprobs")
            self._drift(common, *logprobs, one.rows)
            for side, ids, values in zip("ab", (common.a, common.b), logprobs, strict=True):
                self._probability(side, common, ids, values)
        longer = np.maximum(common.a.lengths, common.b.lengths)
        apart = common.first < longer
        self.divergence.places.update(common.first[apart].tolist())
        self.divergence.ended += int((apart & (common.first == np.minimum(common.a.lengths, common.b.lengths))).sum())
        return dict(zip(rows[apart].tolist(), common.first[apart].tolist(), strict=True))

    def _drift(self, common: _Common, one: Lists, other: Lists, rows: Any) -> None:
        aligned = (one.lengths == common.a.lengths) & (other.lengths == common.b.lengths)
        inside = (common.within < common.first[common.owner]) & aligned[common.owner]
        owner, within = common.owner[inside], common.within[inside]
        at, its = one.first[owner] + within, other.first[owner] + within
        apart = np.abs(one.values[at].astype(np.float64) - other.values[its])
        apart[one.holes[at] | other.holes[its]] = math.nan
        known = np.isfinite(apart)
        self.drift.tokens += int(known.sum())
        self.drift.total += float(apart[known].sum())
        if known.any() and (most := float(apart[known].max())) > self.drift.most:
            place = int(np.flatnonzero(known & (apart == most))[0])
            row = int(owner[place])
            key = rows.column("row_id")[row].as_py(), rows.column("sample_index")[row].as_py()
            self.drift.most, self.drift.where = most, (*key, int(within[place]))

    def _probability(self, side: str, common: _Common, ids: Lists, logprobs: Lists) -> None:
        apart = (common.first < ids.lengths) & (logprobs.lengths == ids.lengths)
        apart &= common.first < np.maximum(common.a.lengths, common.b.lengths)
        at = logprobs.first[apart] + common.first[apart]
        values = np.exp(logprobs.values[at].astype(np.float64)[~logprobs.holes[at]])
        values = values[np.isfinite(values)]
        self.divergence.probabilities[side][0] += float(values.sum())
        self.divergence.probabilities[side][1] += len(values)

    def _keep(
        self, kind: str, rows: Mask, found: Mapping[str, Mask], a: Any, b: Any, places: Mapping[int, int]
    ) -> None:
        room = EXAMPLES[kind] - sum(example.kind == kind for example in self.examples)
        for row in np.flatnonzero(rows)[:room].tolist():
            columns = tuple(name for name, mask in found.items() if mask[row])
            values = [
                {n: side.column(n)[row].as_py() for n in _SHOWN_COLUMNS if n in side.schema.names} for side in (a, b)
            ]
            self.examples.append(Example(kind, columns, values[0], values[1], places.get(row)))


class _Common:
    """The tokens that two lists per row have at the same places.

    Attributes:
        a: The tokens of `a`.
        b: The tokens of `b`.
        owner: [N] the row of each common place.
        within: [N] the place in the row.
        first: [R] the first place that differs; the length of the shorter list if none does.
    """

    def __init__(self, a: Lists, b: Lists) -> None:
        """Compare the tokens."""
        self.a, self.b = a, b
        lengths: npt.NDArray[np.int64] = np.minimum(a.lengths, b.lengths)
        self.owner = np.repeat(np.arange(len(lengths)), lengths)
        self.within = np.arange(len(self.owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        apart = a.values[a.first[self.owner] + self.within] != b.values[b.first[self.owner] + self.within]
        self.first = lengths.copy()
        rows, begin = np.unique(self.owner[apart], return_index=True)
        self.first[rows] = self.within[apart][begin]
