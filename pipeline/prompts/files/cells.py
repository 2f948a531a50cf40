"""Turns a column into Python values, one at a time where some cannot be turned."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pyarrow as pa

from pipeline.prompts.files.kinds import brought_to, holds_uuid, is_json
from pipeline.prompts.files.moments import holds_zone, plain, zoned
from pipeline.types import ErrorCode, RowError
from pipeline.wording import brief, one_line

_NOT_HELD = (ValueError, OverflowError, pa.ArrowException)
"""What a value raises that Python cannot hold."""


def cells(column: pa.ChunkedArray[Any], name: str, other: ErrorCode) -> list[Any]:
    """Return one Python value per row, or a `RowError` in place of a value that Python cannot hold.

    Arrow finds invalid UTF-8 only when a value becomes a `str`. So the whole column is converted at once, and row by row only
    if that fails.

    Args:
        column: [rows]
        name: The column's name, for messages.
        other: The error code of values that Python cannot hold for another reason, such as a date in the year 20000, or a
            moment that is not a whole number of microseconds.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if is_json(column.type):
        chunks: list[Any] = column.chunks
        column = pa.chunked_array([chunk.storage for chunk in chunks], type=column.type.storage_type)
    try:
        found = _values(column)
    except _NOT_HELD:
        found = [_cell(column.take(pa.array([row])), name, other) for row in range(len(column))]
    return [_spelled(value) for value in found] if holds_uuid(column.type) else found


def _values(column: pa.ChunkedArray[Any]) -> list[Any]:
    """Return the values in Python's own classes."""
    kind = plain(column.type)
    if kind == column.type:
        return column.to_pylist()
    chunks: list[Any] = [brought_to(chunk, kind) for chunk in column.chunks]
    values = pa.chunked_array(chunks, type=kind).to_pylist()
    return [zoned(value, column.type) for value in values] if holds_zone(column.type) else values


def _spelled(value: Any) -> Any:
    """Return the value with each UUID as text, as in a file of text."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, dict):
        return {name: _spelled(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_spelled, value))
    return value


def _cell(value: pa.ChunkedArray[Any], name: str, other: ErrorCode) -> Any:
    """Return a value, given as a column of one row, or why Python cannot hold it."""
    try:
        return _values(value)[0]
    except UnicodeDecodeError as error:
        message = f"column {brief(name)}: {error.reason} at byte {error.start}"
        return RowError(ErrorCode.NOT_UTF8, message)
    except _NOT_HELD as error:
        return RowError(other, f"column {brief(name)}: {one_line(error)}")


def not_text(column: pa.ChunkedArray[Any], name: str) -> dict[int, RowError]:
    """Return row → error for rows with a string, at any depth, that is not UTF-8: readers refuse a file that holds one."""
    try:
        column.validate(full=True)
        return {}
    except pa.ArrowInvalid:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
    found = {}
    for row in range(len(column)):
        try:
            column.take(pa.array([row])).validate(full=True)
        except pa.ArrowInvalid:
            found[row] = RowError(ErrorCode.NOT_UTF8, f"kept column {brief(name)}: not UTF-8, so it cannot be kept")
    return found
