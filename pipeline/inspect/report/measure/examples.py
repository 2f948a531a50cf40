"""Chooses rows to show token by token: spread evenly over the output, the same ones each time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.inspect.batch import Batch
from pipeline.inspect.report.measure.tally import reasons_of
from pipeline.types import FinishReason

ROWS = 8
"""Rows that are shown."""
_GOLDEN = (5**0.5 - 1) / 2
TOKENS = 240
"""Most tokens of a row that are shown."""


@dataclass(frozen=True, slots=True)
class Example:
    """A row to show: its columns as Python values, the lists cut to `TOKENS`."""

    row: dict[str, Any]
    tokens: int


@dataclass
class Examples:
    """The chosen rows.

    Args:
        places: Part → numbers of output rows in it; where such a row is an error, the next one that is none is taken.
    """

    places: dict[str, list[int]]
    chosen: list[Example] = field(default_factory=list)
    _open: list[int] = field(default_factory=list)
    _start: int = 0

    def begin(self, part: str) -> bool:
        """Begin a part; return whether a row of it is wanted."""
        self._open, self._start = sorted(self.places.get(part, [])), 0
        return bool(self._open)

    def add(self, batch: Batch) -> None:
        """Take the wanted rows of a batch."""
        size = batch.rows.num_rows
        if self._open and self._open[0] < self._start + size:
            good = reasons_of(batch) != FinishReason.ERROR
            for at in range(max(0, self._open[0] - self._start), size):
                if self._open and self._start + at >= self._open[0] and good[at]:
                    self._open.pop(0)
                    self.chosen.append(_taken(batch.rows.slice(at, 1)))
        self._start += size


def places(parts: list[tuple[str, int]], most: int = ROWS) -> dict[str, list[int]]:
    """Return the rows to show, spread evenly over the parts.

    Args:
        parts: Stored name and number of output rows of each part.
        most: How many.
    """
    total = sum(rows for _, rows in parts)
    # one from each of equal stretches, at another place in each: rows at equal distances may be alike
    wanted = sorted({int((i + i * _GOLDEN % 1) * total / most) for i in range(most)}) if total else []
    found: dict[str, list[int]] = {}
    start = 0
    for name, rows in parts:
        while wanted and wanted[0] < start + rows:
            found.setdefault(name, []).append(wanted.pop(0) - start)
        start += rows
    return found


def _taken(row: pa.RecordBatch) -> Example:
    values: dict[str, Any] = row.to_pylist()[0]
    ids = values.get("token_ids") or []
    return Example({k: v[:TOKENS] if isinstance(v, list) else v for k, v in values.items()}, len(ids))
