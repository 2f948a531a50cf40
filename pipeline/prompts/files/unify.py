"""Finds for each used column the one type that holds its values in all the files of a source."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline.errors import InputRefused
from pipeline.planning.plan import InputFile
from pipeline.prompts.files.kinds import Mismatch, common
from pipeline.wording import brief, one_line


def unified(
    used: Sequence[str], files: Sequence[InputFile], schemas: Sequence[pa.Schema], merged: pa.Schema
) -> pa.Schema:
    """Return `merged` with the common types of the columns that are used.

    A file without rows does not count, since nothing of it is read: empty tables often have untyped columns, or none.

    Args:
        used: The columns.
        files: The files.
        schemas: Their columns, in the same order; the same object where they are equal.
        merged: Every column of any file, and the partition keys.

    Raises:
        InputRefused: If a file lacks a column, has it twice, or has it with a type that does not go with the others'.
    """
    in_files = {name for schema in {id(s): s for s in schemas}.values() for name in schema.names}
    for name in used:
        if name not in in_files or len(merged.get_all_field_indices(name)) > 1:
            continue  # a partition key has the same type everywhere; the others are refused with what there is
        kind: pa.DataType | None = None
        first, previous = "", None
        for file, schema in zip(files, schemas, strict=True):
            if schema is previous or not file.rows:
                continue
            previous = schema
            found = _only(schema, name, file)
            try:
                kind = found if kind is None else common(kind, found)
            except Mismatch as mismatch:
                raise _refusal(name, file.name, first, mismatch) from mismatch
            first = first or file.name
        if kind is not None:
            place = merged.get_field_index(name)
            merged = merged.set(place, merged.field(place).with_type(kind))
    return merged


def _only(schema: pa.Schema, name: str, file: InputFile) -> pa.DataType:
    places = schema.get_all_field_indices(name)
    if len(places) != 1:
        count = "no column" if not places else f"{len(places)} columns"
        raise InputRefused(f"{one_line(file.name)}: {count} {brief(name)}, unlike other files of the source")
    kind: pa.DataType = schema.field(places[0]).type
    return kind


def _refusal(name: str, here: str, first: str, mismatch: Mismatch) -> InputRefused:
    place = f", at {one_line(mismatch.path, 60)}," if mismatch.path else ""
    return InputRefused(
        f"{one_line(here)}: column {brief(name)}{place} is {one_line(mismatch.other, 100)}, "
        f"but {one_line(mismatch.one, 100)} in {one_line(first)}; write both with one type"
    )
