"""Checks that the numbers of scored rows agree with each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.inspect.batch import Batch, Found, Lists, Mask
from pipeline.statistics import SLACK, STATISTICS

_NUMBERS = ("scored_tokens", "bytes", "words", "negative_log_likelihood")
_RELATIVE = 1e-9
"""Tolerance of sums in float64 that were added in another order."""


def check_scores(batch: Batch, error: Mask, tokens: float, found: Found) -> None:
    """Report every defective row, once per kind of mistake.

    Args:
        batch: Output rows of `score`.
        error: The rows that are errors.
        tokens: Size of the vocabulary; infinite where it is unknown.
        found: Takes what is wrong.
    """
    for name in _NUMBERS:
        null, values = batch.null(name), batch.values(name, 0)
        found(f"null {name}", null != error, _shown(f"{name} is null, or is set in an error: ", values))
        wrong = ~error & ~(np.isfinite(values) & (values >= (-SLACK if name == _NUMBERS[-1] else 0)))
        found(f"range of {name}", wrong, _shown(f"{name} is ", values))
    ids = batch.lists("token_ids")
    _within("token_ids", ids, 0, tokens - 1, found)
    scored = batch.values("scored_tokens", 0)
    found(
        "scored_tokens",
        ~error & (scored > ids.lengths),
        lambda i: f"scored_tokens is {scored[i]}, of {ids.lengths[i]} tokens",
    )
    for statistic in STATISTICS.values():
        if batch.has(statistic.column):
            _check_list(statistic.column, batch, ids, error, scored, statistic.bounds(tokens), found)
    if batch.has("token_logprobs"):
        logprobs = batch.lists("token_logprobs")
        sums, given = -logprobs.sums(logprobs.values), batch.values("negative_log_likelihood", 0.0)
        off = ~error & ~(np.abs(given - sums) <= _RELATIVE * np.maximum(1.0, logprobs.sums(np.abs(logprobs.values))))
        what = "negative_log_likelihood"
        found(what, off, lambda i: f"{what} is {float(given[i])}, minus the sum of token_logprobs {float(sums[i])}")
    _check_ratios(batch, error, found)


def _check_list(
    name: str, batch: Batch, ids: Lists, error: Mask, scored: npt.NDArray[Any], bounds: tuple[float, float], found: Found
) -> None:  # fmt: skip
    """Check one statistic: as long as the tokens, as many values as are scored, within its bounds."""
    lists = batch.lists(name)
    found(f"null {name}", lists.null != error, lambda i: f"{name} is {'null' if lists.null[i] else 'set in an error'}")
    wrong = ~error & ~lists.null & (lists.lengths != ids.lengths)
    found(f"length of {name}", wrong, lambda i: f"{name} has {lists.lengths[i]} values for {ids.lengths[i]} tokens")
    there = lists.sums((~lists.holes).astype(np.float64)).astype(np.int64)
    wrong = ~error & (there != scored)
    found(f"scored {name}", wrong, lambda i: f"scored_tokens is {scored[i]}, {name} has {there[i]} values")
    _within(name, lists, *bounds, found)


def _within(name: str, lists: Lists, low: float, high: float, found: Found) -> None:
    bad: Mask = ~lists.holes & ~(np.isfinite(lists.values) & (lists.values >= low) & (lists.values <= high))
    found(f"range of {name}", lists.rows(bad), lambda i: f"{name}: {lists.show(i, bad)}")


def _check_ratios(batch: Batch, error: Mask, found: Found) -> None:
    """Check perplexities and bits per byte against what they are made of."""
    loss = batch.values("negative_log_likelihood", 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        due = {
            "perplexity": np.exp(loss / batch.values("scored_tokens", 0)),
            "word_perplexity": np.exp(loss / batch.values("words", 0)),
            "bits_per_byte": loss / (batch.values("bytes", 0) * math.log(2)),
        }
        for name, values in due.items():
            given, null = batch.values(name, 0.0), batch.null(name)
            near = np.isclose(given, values, rtol=1e-6) | (np.isinf(given) & (values > 1e300))
            wrong = ~error & ~null & ~near
            found(name, wrong, _shown(f"{name} is not what its terms make: ", given))


def _shown(text: str, values: npt.NDArray[Any]) -> Callable[[int], str]:
    return lambda row: f"{text}{values[row]}"
