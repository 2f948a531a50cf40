"""Reads the footer of one Parquet file: its digest, its row groups and its columns. Data pages stay unread."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from pipeline.errors import InputRefused
from pipeline.prompts.files.kinds import described
from pipeline.prompts.parquet.rewriting import projected_footer, readable_footer, refuse_encrypted
from pipeline.wording import one_line

READING: dict[str, Any] = {"arrow_extensions_enabled": False, "coerce_int96_timestamp_unit": "us"}
"""How Arrow is to read a file. Moments of 96 bits go beyond 1677 to 2262, which is all that nanoseconds in 64 bits hold."""

_FIRST_READ = 64 * 1024  # one request covers most footers
_TAIL = 8  # the footer's length (4 bytes, little-endian) and the magic bytes


@dataclass(frozen=True, slots=True)
class Footer:
    """The footer of a Parquet file.

    Attributes:
        size: Bytes of the whole file.
        sha256: SHA-256 of the footer's raw bytes, its length and magic bytes included, in hex.
        metadata: Row groups and column chunks, for Arrow's reader.
        schema: The columns with their logical types.
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


def read_footer(file: pa.NativeFile, name: str, used: Sequence[str] | None = None) -> Footer:
    """Read the footer of an open file, in one or two reads.

    Args:
        file: The file.
        name: What to call it in messages.
        used: The columns to read; others may be encrypted, or of a type that Arrow lacks. None: all.

    Raises:
        InputRefused: If it is no Parquet file, a used column is encrypted, or its footer is corrupt; the text begins with
            `name`.
    """
    try:
        size = int(file.size())
        raw = _raw_footer(file, size, name)
    except OSError as error:
        raise InputRefused(f"{name}: cannot be read: {one_line(error)}") from error
    metadata, schema, whole = _parsed(raw[:-_TAIL], name, used)
    counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    if sum(counts) != metadata.num_rows or min(counts, default=0) < 0:
        raise InputRefused(
            f"{name}: the Parquet footer is corrupt: {metadata.num_rows} rows, but {sum(counts)} in its row groups"
        )
    if not whole:
        refuse_encrypted(raw[:-_TAIL], name, used)
    return Footer(size, hashlib.sha256(raw).hexdigest(), metadata, schema)


def _parsed(raw: bytes, name: str, used: Sequence[str] | None) -> tuple[pq.FileMetaData, pa.Schema, bool]:
    """Return the footer for Arrow, the columns with their logical types, and whether the footer ends where `raw` does.

    Bytes after it are a signature, as in a file with encrypted columns.
    """
    try:
        parquet = _opened(raw)
        whole = parquet.metadata.serialized_size == len(raw)
        readable = readable_footer(raw, parquet.schema_arrow)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        whole, readable = False, _projected(raw, name, used, error)
    try:
        parquet = _opened(readable)
        return parquet.metadata, _logical(parquet), whole
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise InputRefused(f"{name}: the columns that are used cannot be read: {one_line(error)}") from error


def _opened(raw: bytes) -> pq.ParquetFile:
    # Arrow wants a whole file: leading magic bytes and a footer are enough of one, and it is read only once.
    end = len(raw).to_bytes(4, "little") + b"PAR1"
    return pq.ParquetFile(pa.BufferReader(b"PAR1" + raw + end), **READING)


def _projected(raw: bytes, name: str, used: Sequence[str] | None, error: Exception) -> bytes:
    """Return the footer without the unused columns, one of which has a type that Arrow lacks."""
    try:
        return projected_footer(raw, used)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError):
        raise InputRefused(f"{name}: the Parquet footer is corrupt: {one_line(error)}") from error


def _logical(parquet: pq.ParquetFile) -> pa.Schema:
    """Return the columns with their logical types; Arrow's own schema leaves out some."""
    leaves: Any = parquet.metadata.schema
    kinds = ((leaves.column(i).logical_type.type, leaves.column(i).converted_type) for i in range(len(leaves)))
    marks = (converted if kind in ("NONE", "UNKNOWN") else kind for kind, converted in kinds)
    return pa.schema([described(field, marks) for field in parquet.schema_arrow])


def _raw_footer(file: pa.NativeFile, size: int, name: str) -> bytes:
    """Return the bytes from the footer's start to the file's end."""
    if size < 4 + _TAIL:
        raise InputRefused(f"{name}: not a Parquet file: it has only {size} bytes")
    first = min(size, _FIRST_READ)
    end: bytes = file.read_at(first, size - first)  # type: ignore[call-arg]
    magic = end[-4:]
    if magic == b"PARE":
        raise InputRefused(f"{name}: the Parquet file is encrypted, which is not supported; decrypt it first")
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
