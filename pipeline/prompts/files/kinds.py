"""What a column holds, whoever wrote the file: one logical type for all the files of a source, and values brought to it.

A Parquet file may also say which Arrow type a column had in the memory of the program that wrote it (`ARROW:schema`). That is a
way to hold values, not what they are: text is text as a string, a large string, a view or a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.types as kinds

Type: TypeAlias = Any  # a `pa.DataType`, which has the attributes of its kind only
ANNOTATION = b"parquet"
"""The key of a field's metadata where its Parquet type has no equivalent in Arrow; only `INTERVAL` needs it."""


_INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
_UNSIGNED = [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
_FLOATS = [pa.float16(), pa.float32(), pa.float64()]
_UNITS = ["s", "ms", "us", "ns"]


class Mismatch(Exception):
    """Two types that have no type in common: `path` below the column (empty: the column itself), and each of them in words."""

    def __init__(self, path: str, one: str, other: str) -> None:
        """Remember what differs, and where."""
        super().__init__(f"{path}: {one}, {other}")
        self.path, self.one, self.other = path, one, other

    def below(self, name: str) -> Mismatch:
        """The same, seen from the value that has it as its part `name`."""
        return Mismatch(f"{name}.{self.path}" if self.path else name, self.one, self.other)


def is_text(kind: Type) -> bool:
    """Whether the values are text, in whichever of Arrow's types."""
    if kinds.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind) or is_json(kind))


def is_uuid(kind: Type) -> bool:
    """Whether the values are UUIDs."""
    return isinstance(kind, pa.UuidType)


def holds_uuid(kind: Type) -> bool:
    """Whether the values are UUIDs, or contain UUIDs."""
    return is_uuid(kind) or any(holds_uuid(kind.field(i).type) for i in range(kind.num_fields))


def is_json(kind: Type) -> bool:
    """Whether the values are text that the file says is JSON."""
    return isinstance(kind, pa.JsonType)


def is_list(kind: Type) -> bool:
    """Whether the values are lists, in whichever of Arrow's types."""
    tests = (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list, kinds.is_list_view, kinds.is_large_list_view)
    return any(test(kind) for test in tests)


def readable(kind: Type, *, within: bool = False) -> Type:
    """Return the type in which Arrow is to decode a column of type `kind`: without views and small dictionary indices.

    Many kernels of Arrow do not take views, and 8-bit indices may be too small for two dictionaries together. A dictionary
    `within` another value is decoded to its values.
    """
    simple = _without_view(kind)
    if simple is not None:
        return simple
    if kinds.is_dictionary(kind):
        values = readable(kind.value_type, within=True)
        held = not within and (kinds.is_string(values) or kinds.is_large_string(values) or kinds.is_binary(values))
        return pa.dictionary(pa.int32(), values, kind.ordered) if held else values
    if kinds.is_run_end_encoded(kind):
        return readable(kind.value_type, within=within)
    if kinds.is_decimal32(kind) or kinds.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if is_uuid(kind) or is_json(kind):
        return readable(kind.storage_type)
    return of_parts(kind, _within)


def _without_view(kind: Type) -> Type | None:
    if kinds.is_string_view(kind):
        return pa.string()
    if kinds.is_binary_view(kind):
        return pa.binary()
    if kinds.is_list_view(kind):
        return pa.list_(_part(kind.value_field, _within))
    if kinds.is_large_list_view(kind):
        return pa.large_list(_part(kind.value_field, _within))
    return None


def _within(kind: Type) -> Type:
    return readable(kind, within=True)


def of_parts(kind: Type, change: Callable[[Type], Type]) -> Type:
    """Return the type with the types of its parts changed."""
    if kinds.is_struct(kind):
        return pa.struct([_part(kind.field(i), change) for i in range(kind.num_fields)])
    if kinds.is_list(kind):
        return pa.list_(_part(kind.value_field, change))
    if kinds.is_large_list(kind):
        return pa.large_list(_part(kind.value_field, change))
    if kinds.is_fixed_size_list(kind):
        return pa.list_(_part(kind.value_field, change), kind.list_size)
    if kinds.is_map(kind):
        return pa.map_(change(kind.key_type), _part(kind.item_field, change), kind.keys_sorted)
    return kind


def _part(field: Any, change: Callable[[Type], Type]) -> Any:
    return field.with_type(change(field.type))


def annotated(kind: Type, annotation: str) -> Type:
    """Return the logical type of a column that Arrow decodes as `kind` and the file marks as UUID, JSON or ENUM."""
    if annotation == "UUID" and kinds.is_fixed_size_binary(kind) and kind.byte_width == 16:
        return pa.uuid()
    if annotation == "JSON" and (kinds.is_string(kind) or kinds.is_large_string(kind)):
        return pa.json_(kind)
    if annotation == "JSON" and (kinds.is_binary(kind) or kinds.is_large_binary(kind)):
        return pa.json_(pa.string())
    if annotation == "ENUM" and kinds.is_binary(kind):
        return pa.string()
    return kind


def described(field: Any, marks: Iterator[str]) -> Any:
    """Return a field with the logical types that the file's annotations give its values, at every depth.

    Args:
        field: As Arrow decodes it.
        marks: The file's annotations of the leaves, depth first; those of this field are taken.
    """
    kind = field.type
    if kinds.is_struct(kind):
        return field.with_type(pa.struct([described(kind.field(i), marks) for i in range(kind.num_fields)]))
    if kinds.is_map(kind):
        key = described(kind.key_field, marks).type
        return field.with_type(pa.map_(key, described(kind.item_field, marks), kind.keys_sorted))
    if is_list(kind):
        value = described(kind.value_field, marks)
        if kinds.is_fixed_size_list(kind):
            return field.with_type(pa.list_(value, kind.list_size))
        return field.with_type(pa.large_list(value) if kinds.is_large_list(kind) else pa.list_(value))
    mark = next(marks, "")
    if mark == "INTERVAL":
        field = field.with_metadata({ANNOTATION: mark.encode()})
    return field.with_type(annotated(kind, mark))


def common(one: Type, other: Type) -> Type:
    """Return the type that holds the values of both without loss.

    Raises:
        Mismatch: If there is none.
    """
    if one == other:
        return one
    if kinds.is_null(one) or kinds.is_null(other):
        return other if kinds.is_null(one) else one
    for rule in (_common_text, _common_bytes, _common_number, _common_time, _common_list, _common_parts):
        found = rule(one, other)
        if found is not None:
            return found
    raise Mismatch("", str(one), str(other))


def _common_text(one: Type, other: Type) -> Type | None:
    if not (is_text(one) and is_text(other)):
        return None
    if is_json(one) and is_json(other):
        return pa.json_(pa.string())
    if kinds.is_dictionary(one) and kinds.is_dictionary(other):
        return pa.dictionary(pa.int32(), common(one.value_type, other.value_type))
    large = any(kinds.is_large_string(k.value_type if kinds.is_dictionary(k) else k) for k in (one, other))
    return pa.large_string() if large else pa.string()


def _common_bytes(one: Type, other: Type) -> Type | None:
    tests = (kinds.is_binary, kinds.is_large_binary, kinds.is_fixed_size_binary)
    if not all(any(test(k) for test in tests) for k in (one, other)):
        return None
    return pa.large_binary() if kinds.is_large_binary(one) or kinds.is_large_binary(other) else pa.binary()


def _common_number(one: Type, other: Type) -> Type | None:
    for sorts in (_INTEGERS, _UNSIGNED, _FLOATS):
        if one in sorts and other in sorts:
            return max(one, other, key=sorts.index)
    if kinds.is_integer(one) and kinds.is_integer(other):
        signed, unsigned = (one, other) if one in _INTEGERS else (other, one)
        place = max(_INTEGERS.index(signed), _UNSIGNED.index(unsigned) + 1)
        return _INTEGERS[place] if place < len(_INTEGERS) else None
    if kinds.is_decimal(one) and kinds.is_decimal(other):
        scale = max(one.scale, other.scale)
        precision = scale + max(one.precision - one.scale, other.precision - other.scale)
        return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(min(76, precision), scale)
    return None


def _common_time(one: Type, other: Type) -> Type | None:
    if kinds.is_timestamp(one) and kinds.is_timestamp(other) and (one.tz is None) == (other.tz is None):
        return pa.timestamp(_finer(one, other), one.tz if one.tz == other.tz else "UTC")
    if kinds.is_duration(one) and kinds.is_duration(other):
        return pa.duration(_finer(one, other))
    if kinds.is_time(one) and kinds.is_time(other):
        unit = _finer(one, other)
        return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    return pa.date32() if kinds.is_date(one) and kinds.is_date(other) else None


def _finer(one: Any, other: Any) -> Any:
    return max(one.unit, other.unit, key=_UNITS.index)


def _common_list(one: Type, other: Type) -> Type | None:
    if not (is_list(one) and is_list(other)):
        return None
    try:
        value = common(one.value_type, other.value_type)
    except Mismatch as mismatch:
        raise mismatch.below("[]") from None
    if kinds.is_fixed_size_list(one) and kinds.is_fixed_size_list(other) and one.list_size == other.list_size:
        return pa.list_(value, one.list_size)
    return pa.large_list(value) if kinds.is_large_list(one) or kinds.is_large_list(other) else pa.list_(value)


def _common_parts(one: Type, other: Type) -> Type | None:
    if kinds.is_map(one) and kinds.is_map(other):
        return pa.map_(common(one.key_type, other.key_type), common(one.item_type, other.item_type))
    if not (kinds.is_struct(one) and kinds.is_struct(other)):
        return None
    mine, theirs = ({f.name: f.type for f in kind} for kind in (one, other))
    for name in [*mine, *theirs]:
        if name not in mine or name not in theirs:
            has, lacks = f"a struct with the field {name!r}", f"a struct without the field {name!r}"
            raise Mismatch("", has if name in mine else lacks, has if name in theirs else lacks)
    fields = []
    for name, kind in mine.items():
        try:
            fields.append(pa.field(name, common(kind, theirs[name])))
        except Mismatch as mismatch:
            raise mismatch.below(name) from None
    return pa.struct(fields)


def brought_to(values: Any, kind: Type) -> Any:
    """Return an array with the type `kind`, which `common` or `described` gave for its own.

    Raises:
        pa.ArrowInvalid: If a value cannot be held, such as a moment beyond the range of the unit.
    """
    if values.type == kind:
        return values
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, brought_to(values, kind.storage_type))
    if isinstance(values.type, pa.BaseExtensionType):
        values = values.storage
    if kinds.is_binary(values.type) and is_text(kind) and not kinds.is_dictionary(kind):
        values = values.view(pa.string())  # without reading the bytes: what is not UTF-8 is an error of its row
    if values.type == kind:
        return values
    return _parts_brought_to(values, kind) if _is_nested(kind) else values.cast(kind)


def _is_nested(kind: Type) -> bool:
    return bool(kinds.is_struct(kind) or kinds.is_map(kind) or is_list(kind))


def _parts_brought_to(values: Any, kind: Type) -> Any:
    """Convert each part by itself: Arrow's own casts ignore the file's annotations, and fail at text that is not UTF-8."""
    if kinds.is_null(values.type):
        return values.cast(kind)
    if kinds.is_fixed_size_list(values.type) and not kinds.is_fixed_size_list(kind):
        values = values.cast(pa.list_(values.type.value_field))
    arrow: Any = pa  # the stubs want types that are known
    nulls = values.is_null() if values.null_count else None
    if kinds.is_struct(kind):
        parts = [brought_to(values.field(field.name), field.type) for field in kind]
        return arrow.StructArray.from_arrays(parts, fields=list(kind), mask=nulls)
    if kinds.is_fixed_size_list(kind):
        inner = values.values.slice(values.offset * kind.list_size, len(values) * kind.list_size)
        return arrow.FixedSizeListArray.from_arrays(brought_to(inner, kind.value_type), type=kind, mask=nulls)
    offsets = pa.array(values.offsets.to_numpy(), pa.int64() if kinds.is_large_list(kind) else pa.int32())
    if kinds.is_map(kind):
        keys, items = brought_to(values.keys, kind.key_type), brought_to(values.items, kind.item_type)
        return arrow.MapArray.from_arrays(offsets, keys, items, kind, mask=nulls)
    make = arrow.LargeListArray if kinds.is_large_list(kind) else arrow.ListArray
    return make.from_arrays(offsets, brought_to(values.values, kind.value_type), type=kind, mask=nulls)
