"""Builds single columns: numpy arrays → Arrow lists, and strings that every reader of Parquet accepts."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from typing import Any

import numpy as np
import pyarrow as pa


def spare_pandas() -> None:
    """Keep pyarrow from importing pandas, where it is installed, at the first array that it makes, which takes half a second.

    pyarrow then remembers that there is none, until a data frame is asked for, when it looks for pandas again.
    """
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(_NoPandas)


class _NoPandas(MetaPathFinder):
    """While it is in `sys.meta_path`, pandas cannot be imported."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def strings(values: Sequence[str | None]) -> pa.Array[Any]:
    """Return a string column; a lone surrogate, which UTF-8 cannot hold, becomes U+FFFD."""
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        # A template or a message can contain one; a file with it could not be written, or not be read.
        return pa.array(
            [v and v.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for v in values], pa.string()
        )


def plain_lists(values: Sequence[Any], dtype: Any, *, nan_is_null: bool = False) -> pa.Array[Any]:
    """Return a list column.

    Args:
        values: A sequence or array [L] per row, where L differs from row to row; None for a null.
        dtype: The numpy type of the elements.
        nan_is_null: Whether NaN elements become null.
    """
    lengths = [0 if v is None else len(v) for v in values]
    flat = _joined(values, dtype)
    elements: Any = pa.array(flat, mask=np.isnan(flat) if nan_is_null else None)
    return _lists(lengths, elements, _nulls(values))


def nested_lists(values: Sequence[Any], dtype: Any) -> pa.Array[Any]:
    """Return a column of lists of lists.

    Args:
        values: An array [L, k] per row, None for a null.
        dtype: The numpy type of the elements.
    """
    shapes = [(0, 0) if v is None else v.shape for v in values]
    widths = np.repeat([k for _, k in shapes], [length for length, _ in shapes])
    inner = _lists(widths, pa.array(_joined(values, dtype)))
    return _lists([length for length, _ in shapes], inner, _nulls(values))


def lists(lengths: Sequence[int], elements: pa.Array[Any], values: Sequence[Any]) -> pa.Array[Any]:
    """Return a list column over the elements of all rows.

    Args:
        lengths: Elements per row.
        elements: The elements of all rows, in order.
        values: None for each row that is null.
    """
    return _lists(lengths, elements, _nulls(values))


def valid_kept(column: pa.ChunkedArray[Any], type_: pa.DataType) -> pa.ChunkedArray[Any]:
    """Return the column as `type_`; values with a string that is not UTF-8, at any depth, become null."""
    try:
        column.validate(full=True)
        return column if column.type == type_ else column.cast(type_)
    except pa.ArrowInvalid:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type, safe=False)
        rows: list[int | None] = list(range(len(column)))
        for i in range(len(column)):
            try:
                column.take(pa.array([i])).validate(full=True)
            except pa.ArrowInvalid:
                rows[i] = None
        return column.take(pa.array(rows, pa.int64())).cast(type_)


def _joined(values: Sequence[Any], dtype: Any) -> Any:
    parts = [np.asarray(v, dtype=dtype).reshape(-1) for v in values if v is not None]
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)


def _lists(lengths: Any, elements: Any, nulls: Any = None) -> pa.Array[Any]:
    """Return lists of the given lengths over `elements`; raises `ArrowInvalid` if 32-bit offsets overflow."""
    offsets: Any = pa.array(np.fromiter(itertools.accumulate(lengths, initial=0), np.int64)).cast(pa.int32())
    lists: pa.Array[Any] = pa.ListArray.from_arrays(offsets, elements, mask=nulls)
    return lists


def _nulls(values: Sequence[Any]) -> pa.Array[Any] | None:
    return pa.array([v is None for v in values]) if any(v is None for v in values) else None
