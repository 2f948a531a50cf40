"""Tells whether an input file is unchanged: by its content or, on a remote store, by the store's ETag or version.

A footer does not: a corrected row can leave it, and the file's size, as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
from pyarrow.fs import FSSpecHandler, LocalFileSystem, PyFileSystem

from pipeline.errors import InputRefused, StoreUnavailable
from pipeline.planning.plan import InputFile
from pipeline.prompts.parquet.footer import Footer
from pipeline.prompts.parquet.pages import GroupScan, chunks, leaves, scan_group
from pipeline.wording import one_line

MOST_REMOTE_BYTES = 256 << 20
"""Bytes of the used columns of all files up to which a remote source is read once for its plan."""

# What object stores and other file systems of fsspec call a file's version: the surest first.
_VERSIONS = ("ETag", "etag", "version_id", "VersionId", "generation", "md5Hash", "checksum")
_MOMENTS = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


def is_near(filesystem: pyarrow.fs.FileSystem) -> bool:
    """Whether reading the files once costs little."""
    return isinstance(filesystem, LocalFileSystem)


def stamp(filesystem: pyarrow.fs.FileSystem, path: str) -> str:
    """Return what changes with a file's content, from its store: the ETag or version, else the time of its last change.

    A local file's stamp is valid on this machine only. Empty if nothing is known.

    Raises:
        OSError: If the file is not there, or its store does not answer.
    """
    if is_near(filesystem):
        status = Path(path).stat()
        return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
    if isinstance(filesystem, PyFileSystem) and isinstance(filesystem.handler, FSSpecHandler):
        return _fsspec_stamp(filesystem.handler.fs, path)
    with filesystem.open_input_file(path) as handle:
        told = _metadata(handle)
    if "etag" in told:
        return f"etag {told['etag']}"
    info = filesystem.get_file_info(path)
    return f"modified {info.mtime_ns}" if info.mtime_ns else ""


def stamp_of(filesystem: pyarrow.fs.FileSystem, file: InputFile) -> str:
    """Return the current `stamp` of a planned file.

    Raises:
        InputRefused: If the file no longer exists, or may not be read.
        StoreUnavailable: If its store does not answer.
    """
    name = one_line(file.name)
    try:
        return stamp(filesystem, file.path)
    except FileNotFoundError as error:
        raise InputRefused(f"{name}: no such file (it changed since the plan was made)") from error
    except (OSError, pa.ArrowException) as error:
        if is_near(filesystem) or isinstance(error, PermissionError):
            raise InputRefused(f"{name}: {one_line(error)} (it changed since the plan was made)") from error
        raise StoreUnavailable(f"{name}: cannot be read: {one_line(error)}") from error


def _metadata(handle: Any) -> dict[str, str]:
    """Return the store's metadata of an open file, with its keys in lower case."""
    try:
        told = handle.metadata() or {}
    except NotImplementedError:
        return {}
    return {_text(key).lower(): _text(value) for key, value in told.items()}


def _text(told: bytes | str) -> str:
    """Arrow's versions tell bytes or text."""
    return told.decode() if isinstance(told, bytes) else told


def _fsspec_stamp(filesystem: Any, path: str) -> str:
    filesystem.invalidate_cache(path)
    info = filesystem.info(path)
    for key in (*_VERSIONS, *_MOMENTS):
        if info.get(key):
            return f"{key} {info[key]}"
    try:
        return f"modified {filesystem.modified(path)}"
    except (NotImplementedError, KeyError):
        return ""


def used_bytes(footer: Footer, used: Sequence[str]) -> int:
    """Return the bytes of the pages of the columns that are used."""
    numbers = leaves(footer.metadata, used)
    return sum(
        chunk.length
        for group in range(footer.metadata.num_row_groups)
        for chunk in chunks(footer.metadata, group, numbers)
    )


def scan(file: pa.NativeFile, footer: Footer, used: Sequence[str], group: int, name: str) -> GroupScan:
    """Read the pages of the used columns in a row group; see `scan_group`.

    Args:
        file: The file.
        footer: Its footer.
        used: The columns; those that the file lacks are left out.
        group: Number of the row group.
        name: What to call the file in messages.
    """
    numbers = leaves(footer.metadata, used)
    rows = footer.metadata.row_group(group).num_rows
    return scan_group(file, rows, chunks(footer.metadata, group, numbers), f"{name}: row group {group}")
