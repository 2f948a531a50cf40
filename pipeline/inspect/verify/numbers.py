"""Checks that the numbers of a row agree with each other: lengths, sums, bounds, and the fields of an error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.inspect.batch import Batch, Found, Lists, Mask
from pipeline.inspect.verify.scores import check_scores
from pipeline.inspect.verify.wanted import Wanted
from pipeline.statistics import SLACK, STATISTICS
from pipeline.types import ErrorCode, FinishReason

_PER_TOKEN = ("token_ids", *(statistic.column for statistic in STATISTICS.values()))
_TOP = ("top_token_ids", "top_token_logprobs")
_PROMPT = ("prompt_token_ids", "prompt_token_logprobs")


@dataclass(frozen=True, slots=True)
class NumberCheck:
    """Checks batches of one part.

    Attributes:
        wanted: What the plan says.
        vocab_size: The model's number of tokens; None if it was not recorded.
    """

    wanted: Wanted
    vocab_size: int | None

    def check(self, batch: Batch, found: Found) -> None:
        """Report every defective row, once per kind of mistake."""
        error = _errors(batch, found)
        prompt = batch.values("prompt_tokens", -1)
        scores = batch.has(
            "negative_log_likelihood"
        )  # a row that is part of a longer text may have no token of its own
        least = 0 if scores else 1
        found("prompt_tokens", (prompt < 0) | (~error & (prompt < least)), lambda i: f"prompt_tokens is {prompt[i]}")
        if scores:
            check_scores(batch, error, self._tokens, found)
        if batch.has("finish_reason"):
            self._generated(batch, error, found)

    def _generated(self, batch: Batch, error: Mask, found: Found) -> None:
        """Check completions and the statistics of their tokens."""
        _endings(batch, error, found)
        columns = {name: batch.lists(name) for name in _PER_TOKEN if batch.has(name)}
        self._lengths(batch, error, columns, found)
        self._bounds(error, columns, found)
        if "token_logprobs" in columns:
            _cumulative(batch, columns["token_logprobs"], error, found)
        if batch.has("messages") and "messages" not in self.wanted.keep_columns:
            _answers(batch, error, found)
        if all(map(batch.has, _TOP)):
            self._top(batch, error, columns, found)
        if all(map(batch.has, _PROMPT)):
            self._prompt(batch, error, found)

    @property
    def _tokens(self) -> float:
        return math.inf if self.vocab_size is None else float(self.vocab_size)

    def _lengths(self, batch: Batch, error: Mask, columns: dict[str, Lists], found: Found) -> None:
        """Check that lists exist and have one element per generated token, and that there are not too many tokens."""
        generated, prompt = batch.values("completion_tokens", -1), batch.values("prompt_tokens", -1)
        for name, lists in columns.items():
            _aligned(name, lists, error, "completion_tokens", generated, found)
            _full(name, lists, found)
        found(
            "completion_tokens", error & (generated != 0), lambda i: f"an error with completion_tokens {generated[i]}"
        )
        most = self.wanted.max_tokens
        if most is not None:
            found("max_tokens", generated > most, lambda i: f"completion_tokens is {generated[i]}, max_tokens {most}")
        room = self.wanted.max_model_len
        found(
            "max_model_len", ~error & (prompt + generated > room),
            lambda i: f"prompt_tokens {prompt[i]} and completion_tokens {generated[i]} exceed max_model_len {room}",
        )  # fmt: skip

    def _bounds(self, error: Mask, columns: dict[str, Lists], found: Found) -> None:
        """Check that values are within the bounds of their statistic."""
        ranges = {"token_ids": (0.0, self._tokens - 1)}
        ranges |= {s.column: s.bounds(self._tokens) for s in STATISTICS.values()}
        for name, lists in columns.items():
            _within(name, lists, *ranges[name], found)

    def _top(self, batch: Batch, error: Mask, columns: dict[str, Lists], found: Found) -> None:
        """Check the k most likely tokens: k per position, in descending order, and consistent with the token's rank."""
        k, generated = self.wanted.top_logprobs, batch.values("completion_tokens", -1)
        ids, logprobs = (_flat(name, *batch.nested(name), k, error, generated, found) for name in _TOP)
        if ids is None or logprobs is None:
            return  # without a regular shape nothing more can be checked
        _full("top_token_ids", ids, found)
        _within("top_token_ids", ids, 0.0, self._tokens - 1, found)
        _full("top_token_logprobs", logprobs, found)
        _within("top_token_logprobs", logprobs, -math.inf, SLACK, found)
        table = logprobs.values.reshape(-1, k)  # [N, k]
        rising = np.zeros(table.shape, np.bool_)
        rising[:, 1:] = table[:, 1:] > table[:, :-1]
        found("order of top_token_logprobs", logprobs.rows(rising.reshape(-1)), lambda i: "top_token_logprobs rise")
        if "token_ranks" in columns and "token_logprobs" in columns:
            _ranked(columns["token_ranks"], columns["token_logprobs"], table, found)

    def _prompt(self, batch: Batch, error: Mask, found: Found) -> None:
        """Check the prompt's tokens and their log-probabilities, of which the first is null."""
        ids, logprobs = (batch.lists(name) for name in _PROMPT)
        prompt = batch.values("prompt_tokens", -1)
        _aligned("prompt_token_ids", ids, error, "prompt_tokens", prompt, found)
        _full("prompt_token_ids", ids, found)
        _within("prompt_token_ids", ids, 0.0, self._tokens - 1, found)
        _aligned("prompt_token_logprobs", logprobs, error, "prompt_tokens", prompt, found)
        due: Mask = np.zeros(len(logprobs.values), np.bool_)
        due[logprobs.first[logprobs.lengths > 0]] = True
        odd = due != logprobs.holes
        found("prompt nulls", logprobs.rows(odd), lambda i: f"prompt_token_logprobs: {logprobs.show(i, odd)}")
        _within("prompt_token_logprobs", logprobs, -math.inf, SLACK, found)


def _errors(batch: Batch, found: Found) -> Mask:
    """Return which rows are errors, and check that the error fields agree."""
    codes, silent = batch.values("error_code", ""), batch.null("error_message")
    coded = np.isin(codes, [code.value for code in ErrorCode])
    if not batch.has("finish_reason"):
        error = ~batch.null("error_code")
        found("error_code", error & ~coded, lambda i: f"error_code is {codes[i]!r}")
        found("no error", ~error & ~silent, lambda i: "error_message is set, and error_code is not")
    else:
        reasons = batch.values("finish_reason", "")
        error = reasons == FinishReason.ERROR.value
        found("error_code", error & ~coded, lambda i: f"finish_reason is 'error', error_code {codes[i]!r}")
        told = ~error & ~(batch.null("error_code") & silent)
        found("no error", told, lambda i: f"finish_reason is {reasons[i]!r}, and error_code or error_message is set")
    found("message", error & silent, lambda i: "an error without error_message")
    return error


def _endings(batch: Batch, error: Mask, found: Found) -> None:
    """Check that the fields about the end of a completion agree."""
    reasons, text = batch.values("finish_reason", ""), batch.null("text")
    known = np.isin(reasons, [reason.value for reason in FinishReason])
    found("finish_reason", ~known, lambda i: f"finish_reason is {reasons[i]!r}")
    found("text", error != text, lambda i: f"finish_reason is {reasons[i]!r}, and text {'null' if text[i] else 'set'}")
    stopped = ~batch.null("stop_reason") & (reasons != FinishReason.STOP.value)
    found("stop_reason", stopped, lambda i: f"finish_reason is {reasons[i]!r}, and stop_reason set")


def _answers(batch: Batch, error: Mask, found: Found) -> None:
    """Check that a conversation ends with the generated text."""
    rows: Any = batch.rows
    _there("messages", batch.null("messages"), error, found)
    ends = [
        None if told is None else told[-1]["content"] if told else "" for told in rows.column("messages").to_pylist()
    ]
    texts = rows.column("text").to_pylist()
    wrong = np.array(
        [e is not None and t is not None and not e.endswith(t) for e, t in zip(ends, texts, strict=True)], np.bool_
    )
    found("messages", wrong, lambda i: "the last of its messages does not end with its text")


def _aligned(name: str, lists: Lists, error: Mask, of: str, lengths: npt.NDArray[Any], found: Found) -> None:
    """Check that the list exists and is as long as `of` says."""
    _there(name, lists.null, error, found)
    wrong = ~error & ~lists.null & (lists.lengths != lengths)
    found(f"length of {name}", wrong, lambda i: f"{of} is {lengths[i]}, {name} has {lists.lengths[i]} values")


def _full(name: str, lists: Lists, found: Found) -> None:
    found(f"null in {name}", lists.rows(lists.holes), lambda i: f"{name}: {lists.show(i, lists.holes)}")


def _flat(
    name: str, outer: Lists, inner: Lists, k: int, error: Mask, generated: npt.NDArray[Any], found: Found
) -> Lists | None:
    """Return the values of k alternatives per position as one flat list per row; None if a position does not have k."""
    _there(name, outer.null, error, found)
    ragged = outer.rows(outer.values != k) | (~error & (outer.lengths != generated))
    found(f"shape of {name}", ragged, lambda i: f"{name} has not {k} values for each token")
    if ragged.any() or not k:
        return None
    owner = np.repeat(outer.owner, k)
    return Lists(outer.null, outer.lengths * k, inner.values, inner.holes, owner, outer.first * k)


def _there(name: str, null: Mask, error: Mask, found: Found) -> None:
    """Check that an error has no list, and every other row has one."""
    found(f"null {name}", null != error, lambda i: f"{name} is {'null' if null[i] else 'set in a row with an error'}")


def _within(name: str, lists: Lists, low: float, high: float, found: Found) -> None:
    inside = np.isfinite(lists.values) & (lists.values >= low) & (lists.values <= high)
    bad: Mask = ~lists.holes & ~inside
    found(f"range of {name}", lists.rows(bad), lambda i: f"{name}: {lists.show(i, bad)}")


def _cumulative(batch: Batch, logprobs: Lists, error: Mask, found: Found) -> None:
    """Check that the sum is that of its terms, up to float64 rounding in another order of addition."""
    given, null = batch.values("cumulative_logprob", 0.0), batch.null("cumulative_logprob")
    _there("cumulative_logprob", null, error, found)
    sums = logprobs.sums(logprobs.values)
    allowed = logprobs.lengths * np.finfo(np.float64).eps * logprobs.sums(np.abs(logprobs.values))
    with np.errstate(invalid="ignore"):  # infinities, which are reported elsewhere
        wrong = ~error & ~null & ~(np.abs(given - sums) <= allowed)
    found(
        "cumulative_logprob",
        wrong,
        lambda i: f"cumulative_logprob is {float(given[i])}, the sum of token_logprobs {float(sums[i])}",
    )


def _ranked(ranks: Lists, logprobs: Lists, table: npt.NDArray[Any], found: Found) -> None:
    """Check that a token of rank r has the r-th largest log-probability."""
    if not len(ranks.values) == len(logprobs.values) == len(table):
        return  # already reported: a length is wrong
    ranked = (ranks.values >= 1) & (ranks.values <= table.shape[1])
    due = table[np.arange(len(table)), np.where(ranked, ranks.values - 1, 0)]
    with np.errstate(invalid="ignore"):
        off: Mask = ranked & ~(np.abs(logprobs.values - due) <= SLACK)
    found(
        "rank", ranks.rows(off),
        lambda i: f"token_ranks: {ranks.show(i, off)}, where its log-probability is not that of this rank",
    )  # fmt: skip
