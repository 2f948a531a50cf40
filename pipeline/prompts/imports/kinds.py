"""One type for the values that a column has in all chunks, and values brought to it; what Parquet lacks is written otherwise.

The type of all columns together is a struct. A column that has no value yet has the type null, an object that never had a field
the type `struct<>`: Parquet has neither, so they are written as text, without values or with `{}`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from pipeline.prompts.files.kinds import Mismatch, common

Type: TypeAlias = Any  # a `pa.DataType`, which has the attributes of its kind only
NOTHING: Type = pa.struct([])
MOST_DEEP = 64
"""Lists and objects within each other."""
MOST_EXACT = 2**53
"""The largest whole number from zero on of which a float64 has every one."""


class Misfit(Exception):
    """A value that does not fit its column: its path within the row, what it is, and the type before it (empty: none)."""

    def __init__(self, path: tuple[str, ...], here: str, before: str) -> None:
        """Remember what differs, and where."""
        super().__init__(".".join(path), here, before)
        self.path, self.here, self.before = path, here, before


def words(kind: Type) -> str:
    """A type in words, for a message."""
    for test, text in (
        (kinds.is_boolean, "true or false"), (kinds.is_integer, "a whole number"), (kinds.is_floating, "a number"),
        (kinds.is_string, "text"), (kinds.is_list, "a list"), (kinds.is_struct, "an object"),
    ):  # fmt: skip
        if test(kind):
            return text
    return str(kind)


def merged(before: Type, here: Type, path: tuple[str, ...] = ()) -> Type:
    """Return the type that holds values of both: whole numbers become numbers, objects get the fields of both.

    Raises:
        Misfit: If there is none.
    """
    _check_depth(path)
    if before == here and not _is_nested(here):
        return here
    if kinds.is_null(before) or kinds.is_null(here):
        found = here if kinds.is_null(before) else before
        return merged(found, found, path) if _is_nested(found) else found
    if kinds.is_struct(before) and kinds.is_struct(here):
        mine, other = ({field.name: field.type for field in kind} for kind in (before, here))
        names = {**mine, **other}
        return pa.struct([(n, merged(mine.get(n, pa.null()), other.get(n, pa.null()), (*path, n))) for n in names])
    if kinds.is_list(before) and kinds.is_list(here):
        return pa.list_(merged(before.value_type, here.value_type, (*path, "[]")))
    if {_number(before), _number(here)} == {"integer", "float"}:
        return pa.float64()
    try:
        return common(before, here)
    except Mismatch:
        raise Misfit(path, words(here), words(before)) from None


def _number(kind: Type) -> str:
    return "integer" if kinds.is_integer(kind) else "float" if kinds.is_floating(kind) else ""


def _is_nested(kind: Type) -> bool:
    return bool(kinds.is_struct(kind) or kinds.is_list(kind))


def of_value(value: Any, path: tuple[str, ...] = ()) -> Type:
    """Return the type of a JSON value.

    Raises:
        Misfit: If the items of a list in it have no type in common.
    """
    _check_depth(path)
    if isinstance(value, dict):
        return pa.struct([(name, of_value(part, (*path, name))) for name, part in value.items()])
    if isinstance(value, list):
        return pa.list_(_of_items(value, (*path, "[]")))
    by_class: dict[type, Type] = {type(None): pa.null(), bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    return by_class.get(type(value), pa.string())


def _of_items(items: Iterable[Any], path: tuple[str, ...]) -> Type:
    kind: Type = pa.null()
    for item in items:
        kind = merged(kind, of_value(item, path), path)
    return kind


def _check_depth(path: tuple[str, ...]) -> None:
    if len(path) > MOST_DEEP:
        raise Misfit(path[:1], f"nested in more than {MOST_DEEP} levels", "")


def check_exact(value: Any, kind: Type, path: tuple[str, ...] = ()) -> None:
    """Check that a column of a type holds every whole number of a JSON value exactly.

    Raises:
        Misfit: For the first that does not.
    """
    if isinstance(value, dict):
        for name, part in value.items():
            check_exact(part, kind.field(name).type, (*path, name))
    elif isinstance(value, list):
        for part in value:
            check_exact(part, kind.value_type, (*path, "[]"))
    elif type(value) is int and kinds.is_floating(kind) and int(float(value)) != value:
        raise Misfit(path, _inexact(value), "")


def _inexact(number: object) -> str:
    return f"the whole number {number}, which is not exact in a column that has fractions"


def written(kind: Type) -> Type:
    """Return the type with which values of a type are written to Parquet."""
    if kinds.is_null(kind) or kind == NOTHING:
        return pa.string()
    if kinds.is_struct(kind):
        return pa.struct([field.with_type(written(field.type)) for field in kind])
    return pa.list_(written(kind.value_type)) if kinds.is_list(kind) else kind


def leaves(kind: Type) -> int:
    """How many columns of Parquet a type is."""
    if kinds.is_struct(kind):
        return max(1, sum(leaves(field.type) for field in kind))
    return leaves(kind.value_type) if kinds.is_list(kind) else 1


def fitted(values: Any, was: Type, now: Type, path: tuple[str, ...] = ()) -> Any:
    """Return an array converted to the type with which `now` is written.

    Args:
        values: An array of the type `was`, or of the type with which that is written.
        was: The type that its values have.
        now: The column's type now, which `merged` derived from `was`.
        path: Where it is in the row.

    Raises:
        Misfit: If a whole number is not exact as a float64.
    """
    wanted = written(now)
    if was == now and values.type == wanted:
        return values
    arrow: Any = pa  # the stubs want types that are known
    if kinds.is_null(was):
        return pa.nulls(len(values), wanted)
    if was == NOTHING:
        if now == NOTHING:
            return pc.if_else(values.is_valid(), pa.scalar("{}"), pa.scalar(None, pa.string()))
        parts = [pa.nulls(len(values), field.type) for field in wanted]
        return arrow.StructArray.from_arrays(parts, fields=list(wanted), mask=values.is_null())
    nulls = values.is_null() if values.null_count else None
    if kinds.is_struct(was):
        old = {field.name: place for place, field in enumerate(was)}
        parts = [
            fitted(values.field(old[field.name]), was.field(old[field.name]).type, field.type, (*path, field.name))
            if field.name in old
            else pa.nulls(len(values), written(field.type))
            for field in now
        ]
        return arrow.StructArray.from_arrays(parts, fields=list(wanted), mask=nulls)
    if kinds.is_list(was):
        inner = fitted(values.values, was.value_type, now.value_type, (*path, "[]"))
        offsets = pa.array(values.offsets.to_numpy(), pa.int32())
        return arrow.ListArray.from_arrays(offsets, inner, type=wanted, mask=nulls)
    try:
        return values.cast(wanted)
    except pa.ArrowInvalid:
        large = (
            pc.filter(values, pc.greater(pc.abs(values), pa.scalar(MOST_EXACT))) if kinds.is_integer(was) else values
        )
        example = large[0].as_py() if len(large) else ""
        raise Misfit(path, _inexact(example), "") from None


def fitted_table(table: pa.Table, was: Type, now: Type) -> pa.Table:
    """Return a table converted to the types with which `now` is written; see `fitted`."""
    columns = []
    for field in now:
        place = was.get_field_index(field.name)
        if place < 0:
            columns.append(pa.nulls(table.num_rows, written(field.type)))
            continue
        column = table.column(place)
        whole = (
            column.chunk(0)
            if column.num_chunks == 1
            else pa.concat_arrays(column.chunks)
            if column.num_chunks
            else None
        )
        empty = pa.nulls(0, written(was.field(place).type))
        columns.append(fitted(empty if whole is None else whole, was.field(place).type, field.type, (field.name,)))
    return pa.Table.from_arrays(columns, schema=pa.schema(list(written(now))))
