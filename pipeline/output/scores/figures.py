"""Sums over scored texts, and the figures that follow from them: perplexities, bits per byte, accuracies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output.scores.names import ACCURACIES, FIGURES

_SUMMED = ("negative_log_likelihood", "scored_tokens", "bytes", "words")


class Sums:
    """Adds up output rows, exactly rounded, so that they may come in batches of any size."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._terms: dict[str, list[float]] = {}

    def add(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Add output rows; those of another recipe add nothing."""
        table: Any = rows
        if "negative_log_likelihood" not in table.schema.names:
            return
        good = table.filter(pc.is_null(table.column("error_code")))
        self._take("texts", good.num_rows)
        for name in _SUMMED:
            self._terms.setdefault(name, []).extend(good.column(name).to_pylist())
        if "is_greedy" in good.schema.names:
            self._take("completions", good.num_rows)
            if "token_ranks" in good.schema.names:
                self._take("greedy", _true(good.column("is_greedy")))
        if "best" in good.schema.names:
            self._take("endings", good.num_rows)
        if "is_answer" in good.schema.names:
            answers = pc.fill_null(good.column("is_answer"), False)
            self._take("questions", _true(answers))
            for figure, column in ACCURACIES.items():
                if column in good.schema.names:
                    self._take(figure, _true(pc.and_(answers, pc.fill_null(good.column(column), False))))

    def _take(self, name: str, count: int) -> None:
        self._terms.setdefault(name, []).append(count)

    def totals(self) -> dict[str, float]:
        """Return the sums."""
        return {name: math.fsum(terms) for name, terms in self._terms.items()}


def _true(column: Any) -> int:
    return int(pc.sum(column).as_py() or 0)


def figures(sums: Mapping[str, float]) -> dict[str, float]:
    """Return the figures that sums over all output rows give, in the order of `FIGURES`.

    Args:
        sums: What `Sums.totals` returned. With `endings`, the figures are accuracies, and there are none without `questions`:
            a perplexity over right and wrong endings means nothing. With `completions`, texts follow a context.
    """
    if sums.get("endings") or sums.get("questions"):
        asked = sums.get("questions")
        return {name: sums[name] / asked for name in ACCURACIES if name in sums} if asked else {}
    if not sums.get("scored_tokens"):
        return {}  # a text of one token is neither likely nor unlikely
    loss, found = sums.get("negative_log_likelihood", 0.0), dict[str, float]()
    for name, by in (("perplexity", "scored_tokens"), ("word_perplexity", "words"), ("byte_perplexity", "bytes"),
                     ("text_perplexity", "completions")):  # fmt: skip
        if sums.get(by) and loss / sums[by] < 700:
            found[name] = math.exp(loss / sums[by])
    if sums.get("bytes"):
        found["bits_per_byte"] = loss / (sums["bytes"] * math.log(2))
    if sums.get("completions") and "greedy" in sums:
        found["greedy_accuracy"] = sums["greedy"] / sums["completions"]
    return {name: found[name] for name in FIGURES if name in found}
