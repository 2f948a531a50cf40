"""Turns a batch of output rows into numpy arrays, with lists as flat values and lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]
Found = Callable[[str, Mask, Callable[[int], str]], None]
"""Called with a kind of mistake, a mask of the rows [R] that have it, and a function that describes row i."""


@dataclass(frozen=True, slots=True)
class Lists:
    """A list column of R rows with N elements in all.

    Attributes:
        null: [R] whether the list is null.
        lengths: [R] elements, 0 for a null.
        values: [N] the elements; 0 where one is null.
        holes: [N] whether an element is null.
        owner: [N] the row of each element.
        first: [R] where a row's elements begin.
    """

    null: Mask
    lengths: npt.NDArray[np.int64]
    values: npt.NDArray[Any]
    holes: Mask
    owner: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]

    def rows(self, elements: Mask) -> Mask:
        """The rows [R] that have one of the `elements` [N]."""
        found: Mask = np.bincount(self.owner[elements], minlength=len(self.null)) > 0
        return found

    def sums(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The sum [R] of each row's elements, in float64."""
        return np.asarray(np.bincount(self.owner, weights=values, minlength=len(self.null)), np.float64)

    def show(self, row: int, elements: Mask) -> str:
        """Name the first of the `elements` in a row: `-3.5 at token 2`."""
        at = int(self.first[row]) + int(np.argmax(elements[self.first[row] : self.first[row] + self.lengths[row]]))
        value = "null" if self.holes[at] else self.values[at]
        return f"{value} at token {at - int(self.first[row])}"


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of output rows."""

    rows: pa.RecordBatch

    def has(self, name: str) -> bool:
        """Whether there is such a column."""
        return name in self.rows.schema.names

    def null(self, name: str) -> Mask:
        """Where a column is null."""
        return _numpy(self.rows.column(name).is_null())

    def values(self, name: str, instead: Any = 0) -> npt.NDArray[Any]:
        """A column of numbers, or of texts; `instead` in place of nulls."""
        column: Any = self.rows.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        return _numpy(pc.fill_null(column, instead))

    def lists(self, name: str) -> Lists:
        """A list column."""
        return _lists(self.rows.column(name))

    def nested(self, name: str) -> tuple[Lists, Lists]:
        """A column of lists of lists: the outer lists, whose values mean nothing, and the inner ones."""
        outer: Any = self.rows.column(name)
        inner = outer.flatten()
        lengths = pc.fill_null(pc.list_value_length(inner), 0)
        return _taken_apart(outer, lengths, inner.is_null()), _lists(inner)


def _lists(column: Any) -> Lists:
    elements = column.flatten()
    return _taken_apart(column, pc.fill_null(elements, 0), elements.is_null())


def _taken_apart(column: Any, values: Any, holes: Any) -> Lists:
    lengths = _numpy(pc.fill_null(pc.list_value_length(column), 0)).astype(np.int64)
    owner = np.repeat(np.arange(len(column)), lengths)
    return Lists(
        _numpy(column.is_null()),
        lengths,
        _numpy(values),
        _numpy(holes),
        owner,
        np.cumsum(lengths, dtype=np.int64) - lengths,
    )


def _numpy(array: Any) -> npt.NDArray[Any]:
    taken: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return taken
