"""Opens a source: lists its Parquet files, reads their footers, identifies their content, and checks the columns wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.fs

from pipeline.errors import CorruptInput, InputRefused
from pipeline.planning.plan import InputFile
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.columns import check_columns, used_columns
from pipeline.prompts.files.foreign import conversion, is_imported
from pipeline.prompts.files.locate import FoundFile, filesystem_for, find_files
from pipeline.prompts.files.unify import unified
from pipeline.prompts.parquet.content import MOST_REMOTE_BYTES, is_near, scan, stamp_of, used_bytes
from pipeline.prompts.parquet.footer import Footer, open_file, read_footer
from pipeline.prompts.parquet.trial import deadly_signal
from pipeline.wording import brief, one_line, without_secrets

_THREADS = 16  # reading footers waits for storage, not for the processor


@dataclass(frozen=True)
class Source:
    """The input files, as they were found.

    Attributes:
        filesystem: Where the files are.
        files: The files, sorted by name.
        schema: The files' columns with their logical types, then the Hive partition columns (strings).
        damaged: Where pages do not have the checksums that their headers say: file, row group and column, as text.
    """

    filesystem: pyarrow.fs.FileSystem
    files: tuple[InputFile, ...]
    schema: pa.Schema
    damaged: tuple[str, ...] = ()


def open_source(config: SourceConfig) -> Source:
    """List the files of `config.path`, read their footers, identify their content, and check the columns.

    A column in the files hides a partition key of the same name. Files may differ in columns that are not used, and in the
    ways in which their writers held the same values: each column has one logical type for all of them.

    Raises:
        InputRefused: If nothing is found, a file is no readable Parquet file, or a column is missing or does not fit.
        ConfigurationError: If the template cannot be compiled.
    """
    used = used_columns(config)  # first: a bad template needs no listing
    filesystem, path = filesystem_for(config.path)
    found = find_files(filesystem, path, without_secrets(config.path))
    several = len(found) > 1 and all(is_imported(file.name) for file in found)
    given = without_secrets(config.path) if several or "://" in config.path else None
    looks = _looked_at(filesystem, found, used, given)
    looks = _identified(filesystem, looks, used)
    files = tuple(look.file for look in looks)
    schemas: list[pa.Schema] = []
    for look in looks:
        # Millions of equal schemas would not fit: each different one is kept once.
        same = schemas and schemas[-1].equals(look.schema, check_metadata=True)
        schemas.append(schemas[-1] if same else look.schema)
    merged = _merged(schemas, [key for file in found for key in file.keys])
    schema = unified(used, files, schemas, merged)
    for place, field in enumerate(schema):
        if pa.types.is_dictionary(field.type) and field.name not in config.keep_columns:
            schema = schema.set(
                place, field.with_type(field.type.value_type)
            )  # categories are of use in the output only
    check_columns(config, schema)
    return Source(filesystem, files, schema, tuple(place for look in looks for place in look.damaged))


_Named: TypeAlias = FoundFile | InputFile


def _as_given(file: FoundFile, filesystem: pyarrow.fs.FileSystem) -> str:
    """Return a file's name for a command: a local path, relative if it is below the current folder."""
    if filesystem.type_name != "local":
        return file.name
    path = Path(file.path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@dataclass(frozen=True, slots=True)
class _Look:
    """What reading one file gave: the file, its columns, the bytes of those that are used, and where these are damaged."""

    file: InputFile
    schema: pa.Schema
    used_bytes: int
    damaged: tuple[str, ...] = ()


def _looked_at(
    filesystem: pyarrow.fs.FileSystem, found: Sequence[FoundFile], used: Sequence[str], given: str | None
) -> list[_Look]:
    """Read the footers, and the pages of files that are near; results, and the first error, come in the order of the files.

    `given` is the folder, glob or URI that the command names, if not a single file.
    """

    def look(file: FoundFile) -> _Look:
        shown = one_line(file.name)
        with open_file(filesystem, file.path, shown) as handle:
            try:
                footer = read_footer(handle, shown, used)
            except InputRefused as error:
                raise InputRefused(f"{error}{conversion(_as_given(file, filesystem), given)}") from error
            near = is_near(filesystem)
            groups, damaged = _groups(filesystem, handle, footer, used, file) if near else ((), ())
        rows = footer.metadata.num_rows
        made = InputFile(file.name, file.path, footer.size, rows, footer.sha256, file.partitions, groups)
        return _Look(made, footer.schema, used_bytes(footer, used), damaged)

    return _side_by_side(look, found)


def _identified(filesystem: pyarrow.fs.FileSystem, looks: list[_Look], used: Sequence[str]) -> list[_Look]:
    """Add what identifies the content of each file; remote content is read if it is not much."""
    if is_near(filesystem):
        return looks
    much = sum(look.used_bytes for look in looks) > MOST_REMOTE_BYTES

    def identify(look: _Look) -> _Look:
        file, shown = look.file, one_line(look.file.name)
        told = stamp_of(filesystem, file) if much else ""
        if told:
            return replace(look, file=replace(file, stamp=told))
        with open_file(filesystem, file.path, shown) as handle:
            footer = read_footer(handle, shown, used)
            if (footer.size, footer.sha256) != (file.size, file.footer_sha256):
                raise InputRefused(f"{shown}: changed while it was read; start again when nothing writes to it")
            groups, damaged = _groups(filesystem, handle, footer, used, file)
            return replace(look, file=replace(file, groups=groups), damaged=damaged)

    return _side_by_side(identify, looks)


def _groups(
    filesystem: pyarrow.fs.FileSystem, handle: pa.NativeFile, footer: Footer, used: Sequence[str], file: _Named
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the digests of a file's row groups, and where pages are damaged.

    Suspicious pages are first decoded in a process that they may crash.
    """
    name = one_line(file.name)
    try:
        scans = [scan(handle, footer, used, group, name) for group in range(footer.metadata.num_row_groups)]
        ended = None if all(found.whole for found in scans) else deadly_signal(filesystem, file.path, used)
        if ended is not None:
            raise InputRefused(f"{name}: is damaged: decoding it ends the process ({ended}); leave it out")
        damaged = [
            f"{name}: row group {group}, column {brief(found.damaged)}"
            for group, found in enumerate(scans)
            if found.damaged
        ]
        return tuple(found.digest for found in scans), tuple(damaged)
    except CorruptInput as error:  # it says what no file can hold, so that it is of no use to begin
        raise InputRefused(str(error)) from error
    except OSError as error:
        raise InputRefused(f"{name}: cannot be read: {one_line(error)}") from error


_T = TypeVar("_T")
_R = TypeVar("_R")


def _side_by_side(function: Callable[[_T], _R], items: Sequence[_T]) -> list[_R]:
    pool = ThreadPoolExecutor(min(_THREADS, max(1, len(items))), thread_name_prefix="footers")
    try:
        return list(pool.map(function, items))
    finally:
        pool.shutdown(cancel_futures=True)


def _merged(schemas: Sequence[pa.Schema], keys: Sequence[str]) -> pa.Schema:
    """Return every column of any file, with its type in the first file that has it, then the partition keys."""
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
