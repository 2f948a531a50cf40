"""The first differing token of a row, for people: its text, and its probability on both sides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.inspect.diff.tally import Example
from pipeline.types import Tokenizer


@dataclass(frozen=True, slots=True)
class FirstToken:
    """The first token of one side that differs from the other's.

    Attributes:
        id: Its id; None if this side ends there, or has no tokens.
        text: Its text; None without a tokenizer.
        probability: Its probability on its own side, under the model's own distribution; None if it was not measured.
        there: Its probability on the other side, if it is among the most likely tokens there, or None.
        error: The row's error on this side.
    """

    id: int | None = None
    text: str | None = None
    probability: float | None = None
    there: float | None = None
    error: str | None = None


class Tokens:
    """Spells tokens; without tokenizers it knows their ids only.

    Args:
        a: The tokenizer of `a`, or None.
        b: That of `b`, or None.
    """

    def __init__(self, a: Tokenizer | None, b: Tokenizer | None) -> None:
        """Keep the tokenizers."""
        self._of = {"a": a, "b": b}

    def of(self, side: str) -> Tokenizer | None:
        """Return the tokenizer of a side."""
        return self._of[side]

    def first(self, example: Example, side: str) -> FirstToken:
        """Return the token of a side at the place where tokens part."""
        own, other = (example.a, example.b) if side == "a" else (example.b, example.a)
        place, ids = example.place, own.get("token_ids")
        error = own.get("error_code")
        if place is None or ids is None or place >= len(ids):
            return FirstToken(error=error)
        tokenizer, token = self._of[side], ids[place]
        text = None if tokenizer is None else tokenizer.decode([token], special=True)
        return FirstToken(token, text, _probability(own, "token_logprobs", place), _among(other, place, token), error)


def _probability(row: Mapping[str, Any], column: str, place: int) -> float | None:
    values = row.get(column)
    value = values[place] if values is not None and place < len(values) else None
    return None if value is None else math.exp(min(value, 0.0))


def _among(row: Mapping[str, Any], place: int, token: int) -> float | None:
    """Return the probability of a token among the most likely ones of another row at a place."""
    tops = row.get("top_token_ids"), row.get("top_token_logprobs")
    if any(top is None or place >= len(top) for top in tops):
        return None
    ids, logprobs = (top[place] for top in tops if top is not None)
    found = next((p for i, p in zip(ids, logprobs, strict=False) if i == token), None)
    return None if found is None else math.exp(min(found, 0.0))
