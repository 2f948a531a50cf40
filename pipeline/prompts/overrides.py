"""Applies the sampling column of a row to the job's sampling parameters."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from pipeline.types import ErrorCode, RowError, SamplingParams
from pipeline.wording import as_given, one_line

Check = Callable[[SamplingParams], None]
_REMEMBERED = 4096


class Overrides:
    """Makes the sampling parameters of each row, with a cache, since most rows repeat a few."""

    def __init__(self, sampling: SamplingParams, vocab_size: int, check: Check = lambda sampling: None) -> None:
        """Start from the job's parameters.

        Args:
            sampling: The job's parameters.
            vocab_size: Token ids must be below it.
            check: Raises a `ValueError` with the reason if a row's parameters cannot be satisfied.
        """
        self._sampling = sampling
        self._vocab_size = vocab_size
        self._check = check
        self._made: dict[str, SamplingParams | RowError] = {}

    def apply(self, value: Any) -> SamplingParams | RowError:
        """Return the parameters of a row, or `BAD_SAMPLING`.

        Args:
            value: A struct as a dict, a JSON object as a string, null, or an error already found.
        """
        if value is None:
            return self._sampling
        if isinstance(value, RowError):
            return value
        key = value if isinstance(value, str) else repr(value)  # a repr tells 1 from 1.0 and true
        made = self._made.get(key)
        if made is None:
            if len(self._made) >= _REMEMBERED:
                self._made.clear()
            made = self._made[key] = self._make(value)
        return made

    def _make(self, value: Any) -> SamplingParams | RowError:
        try:
            values = json.loads(value) if isinstance(value, str) else _without_decimals(value)
        except (ValueError, RecursionError) as error:
            return _bad(f"not JSON: {error}")
        if not isinstance(values, dict):
            return _bad(f"JSON, but no object: {one_line(as_given(values), 80)}")
        try:
            made = self._sampling.override(values)
            if (beyond := made.beyond(self._vocab_size)) and values.get(beyond[0]) is not None:
                return _bad(f"{beyond[0]}: {beyond[1]} is not below the vocabulary's size, {self._vocab_size}")
            if made is not self._sampling:
                self._check(made)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            return _bad(str(error))
        return made


def _without_decimals(value: Any) -> Any:
    """Return a struct with plain numbers in place of decimals, which is what DuckDB makes of `0.7` in a query."""
    if isinstance(value, Decimal):
        return int(value) if value == int(value) else float(value)
    if isinstance(value, dict):
        return {name: _without_decimals(part) for name, part in value.items()}
    return type(value)(map(_without_decimals, value)) if isinstance(value, list | tuple) else value


def _bad(message: str) -> RowError:
    return RowError(ErrorCode.BAD_SAMPLING, one_line(message))
