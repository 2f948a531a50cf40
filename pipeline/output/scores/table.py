"""Makes one Arrow table of scored texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.output.columns import lists, strings, valid_kept
from pipeline.output.scores.schema import COLUMNS
from pipeline.types import Passage, PromptRow, RowError

CHUNK = 1_000
"""Rows built at once: the offsets of an Arrow list have 32 bits."""


@dataclass(frozen=True, slots=True)
class Score:
    """An output row before the columns are built: exactly one of `passage` and `error` is set.

    Attributes:
        position: Place of the input row.
        sample: Which of its endings.
        row: The input row.
        passage: What was scored.
        error: Why nothing was.
        values: Column → statistics of the passage's N tokens, [N] or [N, k]; arbitrary where `scored` is false.
        scored: [N] which tokens have statistics.
        likelihood: The sum of their log-probabilities, nats.
        aside: That of an ending without its context; None: it was not scored so.
        best: Column → whether the ending is the best of its row.
    """

    position: int
    sample: int
    row: PromptRow
    passage: Passage | None = None
    error: RowError | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    scored: Any = None
    likelihood: float = 0.0
    aside: float | None = None
    best: Mapping[str, bool] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Number of tokens with statistics."""
        return 0 if self.scored is None else int(np.count_nonzero(self.scored))


def build_scores(schema: pa.Schema, scores: Sequence[Score], kept: pa.Table) -> pa.Table:
    """Return the output rows of a shard, in the order of `scores`.

    Args:
        schema: What `score_schema` returned.
        scores: The rows.
        kept: The kept columns, one row per input row.
    """
    chunks = [part for i in range(0, len(scores), CHUNK) for part in _parts(schema, scores[i : i + CHUNK], kept)]
    return pa.concat_tables(chunks) if chunks else schema.empty_table()


def _parts(schema: pa.Schema, scores: Sequence[Score], kept: pa.Table) -> list[pa.Table]:
    """Return the rows in one table, or in several if a column exceeds one array."""
    try:
        positions = pa.array([s.position for s in scores], pa.int64())
        columns: list[Any] = [
            valid_kept(kept.column(f.name).take(positions), f.type)
            if f.name in kept.column_names
            else _column(f.name, scores)
            for f in schema
        ]
        return [pa.table(columns, schema=schema)]
    except (pa.ArrowInvalid, pa.ArrowCapacityError):
        if len(scores) < 2:
            raise
        half = len(scores) // 2
        return [*_parts(schema, scores[:half], kept), *_parts(schema, scores[half:], kept)]


def _column(name: str, scores: Sequence[Score]) -> Any:
    if name in ("sample_index", "prompt_tokens"):  # of errors too
        return pa.array([s.sample if name == "sample_index" else s.row.prompt_tokens for s in scores], pa.int32())
    if name in _TEXTS:
        return strings([_TEXTS[name](s) for s in scores])
    if name in _NUMBERS:
        number = _NUMBERS[name]
        return pa.array([None if s.passage is None else number(s, s.passage) for s in scores], COLUMNS[name])
    if name in _BEST:
        return pa.array([s.best.get(name) for s in scores], pa.bool_())
    if name == "token_ids":
        own = [None if s.passage is None else s.passage.token_ids[s.passage.start : s.passage.stop] for s in scores]
        return lists([len(o or ()) for o in own], pa.array([i for o in own for i in o or ()], pa.int32()), own)
    return _nested(name, scores) if name.startswith("top_") else _statistic(name, scores)


def _statistic(name: str, scores: Sequence[Score]) -> pa.Array[Any]:
    """Return a list column with null at the tokens that have no statistics."""
    kind = COLUMNS[name].field(0).type
    parts = [_full(s, name, (), kind) for s in scores]
    flat = np.concatenate([p for p in parts if p is not None] or [np.empty(0, kind.to_pandas_dtype())])
    elements = pa.array(flat, kind, mask=_holes(scores))
    return lists([0 if p is None else len(p) for p in parts], elements, [s.passage for s in scores])


def _nested(name: str, scores: Sequence[Score]) -> pa.Array[Any]:
    """Return a column of lists of lists; the inner list is null at the tokens that have no statistics."""
    kind = COLUMNS[name].field(0).type.field(0).type
    holes = _holes(scores)
    found = [np.asarray(s.values[name])[s.scored].reshape(-1) for s in scores if s.passage is not None and s.tokens]
    elements = pa.array(np.concatenate(found or [np.empty(0, kind.to_pandas_dtype())]), kind)
    k = len(elements) // max(1, int(np.count_nonzero(~holes)))
    inner = lists([0 if hole else k for hole in holes], elements, [None if hole else True for hole in holes])
    lengths = [0 if s.passage is None else len(s.scored) for s in scores]
    return lists(lengths, inner, [s.passage for s in scores])


def _full(score: Score, name: str, empty: tuple[int, ...], kind: pa.DataType) -> Any:
    """Return the values of a row's tokens; zeros if none of them has any, None on error."""
    if score.passage is None:
        return None
    dtype = kind.to_pandas_dtype()
    return np.asarray(score.values.get(name, np.zeros((len(score.scored), *empty), dtype)), dtype)


def _holes(scores: Sequence[Score]) -> Any:
    masks = [~s.scored for s in scores if s.passage is not None]
    return np.concatenate(masks) if masks else np.empty(0, np.bool_)


def _ratio(score: float, by: float) -> float | None:
    """Return exp(score / by), infinite where float64 ends; None if `by` is 0."""
    if not by:
        return None
    return math.exp(score / by) if score / by < 700 else math.inf


def _greedy(s: Score, _: Passage) -> bool | None:
    if s.tokens and "token_ranks" not in s.values:
        return None
    return bool((np.asarray(s.values["token_ranks"])[s.scored] == 1).all()) if s.tokens else True


_TEXTS: dict[str, Callable[[Score], str | None]] = {
    "row_id": lambda s: s.row.row_id,
    "prompt": lambda s: None if s.passage is None or s.passage.text is None else s.row.prompt,
    "text": lambda s: None if s.passage is None else s.row.prompt if s.passage.text is None else s.passage.text,
    "error_code": lambda s: s.error.code.value if s.error else None,
    "error_message": lambda s: s.error.message if s.error else None,
}
_NUMBERS: dict[str, Callable[[Score, Passage], Any]] = {
    "scored_tokens": lambda s, p: s.tokens,
    "bytes": lambda s, p: p.size[0],
    "words": lambda s, p: p.size[2],
    "negative_log_likelihood": lambda s, p: 0.0 - s.likelihood,
    "perplexity": lambda s, p: _ratio(-s.likelihood, s.tokens),
    "word_perplexity": lambda s, p: _ratio(-s.likelihood, p.size[2]) if s.tokens else None,
    "bits_per_byte": lambda s, p: (0.0 - s.likelihood) / (p.size[0] * math.log(2)) if p.size[0] and s.tokens else None,
    "is_greedy": _greedy,
    "is_answer": lambda s, p: None if s.row.answer is None else s.sample == s.row.answer,
    "unconditional_negative_log_likelihood": lambda s, p: None if s.aside is None else 0.0 - s.aside,
}
_BEST = {"best", "best_per_token", "best_per_byte", "best_per_character", "best_unconditional"}
