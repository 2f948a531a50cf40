"""Compares two outputs: opens both, matches and compares their rows, and explains what differs."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.inspect.config import DiffConfig
from pipeline.inspect.diff.matching import match
from pipeline.inspect.diff.result import Difference, difference, kept_columns
from pipeline.inspect.diff.sides import open_side, shared_schema
from pipeline.inspect.diff.tally import Tally
from pipeline.inspect.diff.texts import Tokens
from pipeline.inspect.output import Output
from pipeline.types import Tokenizer

Spelling = Callable[[Output], Tokenizer | None]
"""Returns the tokenizer that made an output, if it is on this machine."""


def diff(config: DiffConfig, spelling: Spelling, progress: Callable[[int, int], None]) -> Difference:
    """Compare two outputs.

    Args:
        config: Which.
        spelling: Asked for both tokenizers when rows differ.
        progress: Called from time to time with the rows that are compared, and how many there are.

    Raises:
        PlanRefused: If one of them is no output, or damaged, or there is no room to match their rows.
    """
    a, b = open_side("a", config.a), open_side("b", config.b)
    schema = shared_schema(a, b)
    tally = Tally(schema, kept_columns(a) | kept_columns(b))
    total = max(a.rows, b.rows)
    progress(0, total)
    matched = match(a, b, schema, tally.add, lambda done: progress(done, total))
    spelled = any(example.place is not None for example in tally.examples)
    tokens = Tokens(*(spelling(side.output) if spelled else None for side in (a, b)))
    return difference(a, b, schema, matched, tally, tokens)
