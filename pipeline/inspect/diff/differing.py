"""Finds the rows in which two Arrow columns differ, bit for bit, whatever their type."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]
_BITS = {"float": pa.int32(), "double": pa.int64(), "halffloat": pa.int16()}


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that a column is compared in: a dictionary's and an extension's is that of its values."""
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    return plain_type(kind.value_type) if pa.types.is_dictionary(kind) else kind


def differing(one: Any, other: Any) -> Mask:
    """Return the rows [R] in which two arrays of one plain type differ; floats by their bits, so that NaN equals itself.

    Args:
        one: An array of R values.
        other: An array of R values, of the same type.
    """
    one, other = _plain(one), _plain(other)
    null, other_null = _mask(one.is_null()), _mask(other.is_null())
    found: Mask = null != other_null
    both = ~(null | other_null)
    if both.any():
        if not both.all():
            chosen = pa.array(both)
            one, other = one.filter(chosen), other.filter(chosen)
        found[both] = _values(one, other)
    return found


def _values(one: Any, other: Any) -> Mask:
    """Compare values of which none is null."""
    kind = one.type
    if pa.types.is_struct(kind):
        found = np.zeros(len(one), np.bool_)
        for mine, its in zip(one.flatten(), other.flatten(), strict=True):
            found |= differing(mine, its)
        return found
    if _is_list(kind):
        return _lists(one, other)
    if str(kind) in _BITS:
        one, other = one.view(_BITS[str(kind)]), other.view(_BITS[str(kind)])
    try:
        return _mask(pc.not_equal(one, other))
    except pa.ArrowNotImplementedError:  # a type that Arrow does not compare
        return np.array([a != b for a, b in zip(one.to_pylist(), other.to_pylist(), strict=True)], np.bool_)


def _lists(one: Any, other: Any) -> Mask:
    lengths, other_lengths = _lengths(one), _lengths(other)
    found: Mask = lengths != other_lengths
    same = ~found
    if not same.all():
        chosen = pa.array(same)
        one, other = one.filter(chosen), other.filter(chosen)
    inside = differing(_elements(one), _elements(other))
    owner = np.repeat(np.flatnonzero(same), lengths[same])
    found[owner[inside]] = True
    return found


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_map(kind)


def _elements(column: Any) -> Any:
    if pa.types.is_map(column.type):
        item = pa.struct([("key", column.type.key_type), ("value", column.type.item_type)])
        return column.cast(pa.list_(item)).flatten()
    return column.flatten()


def _lengths(column: Any) -> npt.NDArray[np.int64]:
    lengths: Any
    if pa.types.is_map(column.type):
        lengths = np.diff(column.offsets.to_numpy())
        return np.asarray(lengths, np.int64)
    lengths = pc.list_value_length(column)
    found: npt.NDArray[np.int64] = lengths.to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def _plain(column: Any) -> Any:
    if isinstance(column, pa.ExtensionArray):
        return _plain(column.storage)
    return _plain(column.dictionary_decode()) if pa.types.is_dictionary(column.type) else column


def _mask(array: Any) -> Mask:
    taken: Mask = array.to_numpy(zero_copy_only=False).astype(np.bool_)
    return taken
