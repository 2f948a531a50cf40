"""Sums over scored texts, and the figures that follow from them: perplexities, bits per byte, accuracies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_SUMMED = ("negative_log_likelihood", "scored_tokens", "bytes", "words")
ACCURACIES = {
    "accuracy": "best",
    "accuracy_per_token": "best_per_token",
    "accuracy_per_byte": "best_per_byte",
    "accuracy_per_character": "best_per_character",
    "accuracy_unconditional": "best_unconditional",
}
"""Figure → the column of the ending that it takes for the answer."""
FIGURES = {
    "perplexity": "exp(negative log-likelihood / scored tokens)",
    "word_perplexity": "exp(negative log-likelihood / words)",
    "byte_perplexity": "exp(negative log-likelihood / bytes)",
    "bits_per_byte": "negative log-likelihood / (bytes · ln 2)",
    "text_perplexity": "exp(negative log-likelihood / texts)",
    "greedy_accuracy": "share of texts whose every token is the most likely one",
    "accuracy": "share of questions whose answer has the greatest log-likelihood",
    "accuracy_per_token": "the same, log-likelihood divided by the ending's tokens",
    "accuracy_per_byte": "the same, log-likelihood divided by the ending's bytes",
    "accuracy_per_character": "the same, log-likelihood divided by the ending's characters",
    "accuracy_unconditional": "the same, less the log-likelihood of the ending without its context",
}


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
            self._take("greedy", _true(good.column("is_greedy")))
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
        sums: What `Sums.totals` returned. With `questions`, the rows are endings, and the figures are accuracies.
    """
    if sums.get("questions"):
        return {name: sums[name] / sums["questions"] for name in ACCURACIES if name in sums}
    loss, found = sums.get("negative_log_likelihood", 0.0), dict[str, float]()
    for name, by in (("perplexity", "scored_tokens"), ("word_perplexity", "words"), ("byte_perplexity", "bytes"),
                     ("text_perplexity", "texts")):  # fmt: skip
        if sums.get(by) and loss / sums[by] < 700:
            found[name] = math.exp(loss / sums[by])
    if sums.get("bytes"):
        found["bits_per_byte"] = loss / (sums["bytes"] * math.log(2))
    if sums.get("texts") and "greedy" in sums:
        found["greedy_accuracy"] = sums["greedy"] / sums["texts"]
    return {name: found[name] for name in FIGURES if name in found}
