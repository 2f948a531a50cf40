"""Opens a source: lists its Parquet files, reads their footers, and checks the columns that are wanted.

It does not read data pages, and does not know what rows become.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from pipeline.errors import InputRefused
from pipeline.planning.plan import InputFile
from pipeline.prompts.columns import check_columns, used_columns
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.footer import open_file, read_footer
from pipeline.prompts.foreign import conversion
from pipeline.prompts.locate import FoundFile, filesystem_for, find_files
from pipeline.prompts.wording import brief, one_line, without_secrets

__all__ = ["Source", "filesystem_for", "open_source"]

_THREADS = 16  # reading footers waits for storage, not for the processor


@dataclass(frozen=True)
class Source:
    """The input as it was found.

    Attributes:
        filesystem: Where the files are.
        files: The files, sorted by name.
        schema: The files' columns, then the Hive partition columns (strings).
    """

    filesystem: pyarrow.fs.FileSystem
    files: tuple[InputFile, ...]
    schema: pa.Schema


def open_source(config: SourceConfig) -> Source:
    """List the files of `config.path`, read their footers, and check the columns.

    A column in the files hides a partition key of the same name. Files may differ in columns that are not used.

    Raises:
        InputRefused: If nothing is found, a file is no readable Parquet file, or a column is missing or does not fit.
        ConfigurationError: If the template cannot be compiled.
    """
    used = used_columns(config)  # first: a bad template needs no listing
    filesystem, path = filesystem_for(config.path)
    found = find_files(filesystem, path, without_secrets(config.path))
    files: list[InputFile] = []
    schemas: list[pa.Schema] = []
    for file, schema in _read_footers(filesystem, found):
        files.append(file)
        # Millions of equal schemas would not fit: each different one is kept once.
        schemas.append(schemas[-1] if schemas and schemas[-1].equals(schema, check_metadata=True) else schema)
    merged = _merged(schemas, [key for file in found for key in file.keys])
    check_columns(config, merged)
    _check_alike(used, files, schemas)
    return Source(filesystem, tuple(files), merged)


def _as_given(file: FoundFile, filesystem: pyarrow.fs.FileSystem) -> str:
    """A file's name as a command can take it: a local path, from here where it is below this folder."""
    if filesystem.type_name != "local":
        return file.name
    path = Path(file.path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _read_footers(
    filesystem: pyarrow.fs.FileSystem, found: Sequence[FoundFile]
) -> Iterator[tuple[InputFile, pa.Schema]]:
    """Read the footers side by side; the results, and the first error, come in the order of the files."""

    def read(file: FoundFile) -> tuple[InputFile, pa.Schema]:
        shown = one_line(file.name)
        with open_file(filesystem, file.path, shown) as handle:
            try:
                footer = read_footer(handle, shown)
            except InputRefused as error:
                raise InputRefused(f"{error}{conversion(_as_given(file, filesystem))}") from error
        rows = footer.metadata.num_rows
        return InputFile(file.name, file.path, footer.size, rows, footer.sha256, file.partitions), footer.schema

    pool = ThreadPoolExecutor(min(_THREADS, len(found)), thread_name_prefix="footers")
    try:
        yield from pool.map(read, found)
    finally:
        pool.shutdown(cancel_futures=True)


def _merged(schemas: Sequence[pa.Schema], keys: Sequence[str]) -> pa.Schema:
    """Return every column of any file, as the first file that has it has it, then the partition keys."""
    fields: list[pa.Field[Any]] = list(schemas[0])
    names = set(schemas[0].names)
    previous = schemas[0]
    for schema in schemas[1:]:
        if schema is not previous:
            fields += [f for f in schema if f.name not in names]
            names.update(schema.names)
            previous = schema
    for key in dict.fromkeys(keys):
        if key not in names:
            fields.append(pa.field(key, pa.string()))
    return pa.schema(fields)


def _check_alike(used: Sequence[str], files: Sequence[InputFile], schemas: Sequence[pa.Schema]) -> None:
    """Refuse files that differ in a column which is used."""
    in_files = {name for schema in schemas for name in schema.names}
    first: dict[str, tuple[pa.DataType, str]] = {}
    previous: pa.Schema | None = None
    for file, schema in zip(files, schemas, strict=True):
        if schema is previous:
            continue
        previous = schema
        for name in used:
            if name not in in_files:
                continue  # a partition key: the same type everywhere
            places = schema.get_all_field_indices(name)
            if len(places) != 1:
                count = "no column" if not places else f"{len(places)} columns"
                raise InputRefused(f"{one_line(file.name)}: {count} {brief(name)}, unlike other files of the source")
            kind = schema.field(places[0]).type
            wanted, where = first.setdefault(name, (kind, file.name))
            if kind != wanted:
                raise InputRefused(
                    f"{one_line(file.name)}: column {brief(name)} is {one_line(kind, 60)}, "
                    f"but {one_line(wanted, 60)} in {one_line(where)}"
                )
