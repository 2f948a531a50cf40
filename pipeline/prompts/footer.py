"""Reads the footer of one Parquet file: its digest, its row groups and its columns.

It does not know which of the columns are wanted, and reads no data page.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from pipeline.errors import InputRefused
from pipeline.prompts.wording import one_line

_FIRST_READ = 64 * 1024  # one request covers most footers
_TAIL = 8  # the footer's length (4 bytes, little-endian) and the magic bytes


@dataclass(frozen=True, slots=True)
class Footer:
    """What the end of a Parquet file tells.

    Attributes:
        size: Bytes of the whole file.
        sha256: SHA-256 of the footer's raw bytes, its length and magic bytes included, in hex.
        metadata: Row groups and column chunks.
        schema: The columns as Arrow types.
    """

    size: int
    sha256: str
    metadata: pq.FileMetaData
    schema: pa.Schema


def open_file(filesystem: pyarrow.fs.FileSystem, path: str, name: str) -> pa.NativeFile:
    """Open a file for random access.

    Raises:
        InputRefused: If it is not there, or may not be read; the text begins with `name`.
    """
    try:
        return filesystem.open_input_file(path)
    except FileNotFoundError as error:
        raise InputRefused(f"{name}: no such file") from error
    except PermissionError as error:
        raise InputRefused(f"{name}: permission denied") from error
    except OSError as error:
        raise InputRefused(f"{name}: cannot be opened: {one_line(error)}") from error


def read_footer(file: pa.NativeFile, name: str) -> Footer:
    """Read the footer of an open file, in one or two reads.

    Raises:
        InputRefused: If it is no Parquet file, is encrypted, or its footer is corrupt; the text begins with `name`.
    """
    try:
        size = int(file.size())
        raw = _raw_footer(file, size, name)
    except OSError as error:
        raise InputRefused(f"{name}: cannot be read: {one_line(error)}") from error
    try:
        # Arrow wants a whole file: leading magic bytes and a footer are enough of one, and it is read only once.
        parquet = pq.ParquetFile(pa.BufferReader(b"PAR1" + raw), arrow_extensions_enabled=False)  # type: ignore[call-arg]
        metadata, schema = parquet.metadata, parquet.schema_arrow
        counted = sum(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise InputRefused(f"{name}: the Parquet footer is corrupt: {one_line(error)}") from error
    if counted != metadata.num_rows or counted < 0:
        raise InputRefused(
            f"{name}: the Parquet footer is corrupt: {metadata.num_rows} rows, but {counted} in its row groups"
        )
    return Footer(size, hashlib.sha256(raw).hexdigest(), metadata, schema)


def _raw_footer(file: pa.NativeFile, size: int, name: str) -> bytes:
    """Return the bytes from the footer's start to the file's end."""
    if size < 4 + _TAIL:
        raise InputRefused(f"{name}: not a Parquet file: it has only {size} bytes")
    first = min(size, _FIRST_READ)
    end: bytes = file.read_at(first, size - first)  # type: ignore[call-arg]
    magic = end[-4:]
    if magic == b"PARE":
        raise InputRefused(f"{name}: the Parquet file is encrypted, which is not supported")
    if magic != b"PAR1":
        raise InputRefused(f"{name}: not a Parquet file, or cut short: it does not end in PAR1")
    wanted = int.from_bytes(end[-_TAIL:-4], "little") + _TAIL
    if wanted <= _TAIL or wanted > size - 4:
        raise InputRefused(f"{name}: the Parquet footer is corrupt: a length of {wanted - _TAIL} in {size} bytes")
    if wanted > first:
        end = file.read_at(wanted - first, size - wanted) + end  # type: ignore[call-arg]
    if len(end) < min(wanted, size):
        raise InputRefused(f"{name}: cut short while it was read")
    return end[-wanted:]
