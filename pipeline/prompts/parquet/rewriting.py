"""Rewrites a footer, so that Arrow reads of a file what is used and holds it in types that it can work with."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipeline.errors import InputRefused
from pipeline.prompts.files.kinds import readable
from pipeline.prompts.parquet.thrift import BINARY, LIST, Reader, Struct, varint, write_struct
from pipeline.wording import brief

# Field numbers of parquet.thrift.
_SCHEMA, _ROW_GROUPS, _PAIRS, _COLUMN_ORDERS = 2, 4, 5, 7
_NAME, _CHILDREN = 4, 5
_CHUNKS, _SORTING = 1, 4
_CRYPTO = 8

_KEY = b"ARROW:schema"
_BEFORE = varint(len(_KEY)) + _KEY + bytes([1 << 4 | BINARY])  # the key, and the head of its value


def readable_footer(raw: bytes, schema: pa.Schema) -> bytes:
    """Return the footer with an `ARROW:schema` of types that Arrow's kernels support; most footers stay as they are.

    Args:
        raw: The footer, without length and magic bytes.
        schema: What Arrow makes of it.
    """
    place = raw.find(_BEFORE)
    fields = [field.with_type(readable(field.type)) for field in schema]
    if place < 0 or all(new.type == old.type for new, old in zip(fields, schema, strict=True)):
        return raw
    value = base64.b64encode(pa.schema(fields).serialize().to_pybytes())
    reader = Reader(raw, place + len(_BEFORE))
    end = reader.skip_binary()
    return raw[: place + len(_BEFORE)] + varint(len(value)) + value + raw[end:]


def projected_footer(raw: bytes, used: Sequence[str] | None) -> bytes:
    """Return the footer without the columns that are not used, and without `ARROW:schema`.

    Raises:
        ValueError, IndexError, KeyError, TypeError: If the footer is invalid.
    """
    footer = Reader(raw).struct()
    root, *columns = _columns(footer)
    keep = [column for column in columns if used is None or column[1] in used]
    elements = [element for _, _, _, part in keep for element in part]
    kept_leaves = [leaf for first, _, count, _ in keep for leaf in range(first, first + count)]
    head = dict(root[3][0])
    head[_CHILDREN] = (head[_CHILDREN][0], len(keep))
    footer[_SCHEMA] = _with(footer[_SCHEMA], [head, *elements])
    for group in footer[_ROW_GROUPS][1][1]:
        group[_CHUNKS] = _with(group[_CHUNKS], [group[_CHUNKS][1][1][leaf] for leaf in kept_leaves])
        group.pop(_SORTING, None)
    if _COLUMN_ORDERS in footer:
        orders = footer[_COLUMN_ORDERS][1][1]
        footer[_COLUMN_ORDERS] = _with(footer[_COLUMN_ORDERS], [orders[leaf] for leaf in kept_leaves])
    if _PAIRS in footer:
        footer[_PAIRS] = _with(footer[_PAIRS], [p for p in footer[_PAIRS][1][1] if p[1][1] != _KEY])
    return write_struct(footer)


def refuse_encrypted(raw: bytes, name: str, used: Sequence[str] | None) -> None:
    """Refuse a file with an encrypted column among those used: Arrow would end the process when asked about it.

    Raises:
        InputRefused: If a used column is encrypted, or the footer is invalid; the text begins with `name`.
    """
    try:
        footer = Reader(raw).struct()
        for first, column, count, _ in list(_columns(footer))[1:]:
            if used is not None and column not in used:
                continue
            for group in footer[_ROW_GROUPS][1][1]:
                if any(_CRYPTO in chunk for chunk in group[_CHUNKS][1][1][first : first + count]):
                    raise InputRefused(
                        f"{name}: column {brief(column)} is encrypted, which is not supported; decrypt it first"
                    )
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise InputRefused(f"{name}: the Parquet footer is corrupt: {error}") from error


def _columns(footer: Struct) -> Iterator[tuple[int, str, int, list[Struct]]]:
    """Yield the root, then each column: (its first leaf, name, number of leaves, elements of its schema)."""
    elements = footer[_SCHEMA][1][1]
    yield 0, "", 0, elements[:1]
    place, leaf = 1, 0
    for _ in range(elements[0][_CHILDREN][1]):
        stop = _end(elements, place)
        part = elements[place:stop]
        leaves = sum(not _children(element) for element in part)
        yield leaf, part[0][_NAME][1].decode(), leaves, part
        place, leaf = stop, leaf + leaves


def _end(elements: list[Struct], place: int) -> int:
    """Return the place after an element and everything below it."""
    open_ = 1
    while open_:
        open_ += _children(elements[place]) - 1
        place += 1
    return place


def _children(element: Struct) -> int:
    return int(element[_CHILDREN][1]) if _CHILDREN in element else 0


def _with(field: tuple[int, Any], values: list[Any]) -> tuple[int, Any]:
    """A list with other values."""
    return LIST, (field[1][0], values)
