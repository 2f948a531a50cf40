"""Reads the raw pages of column chunks: their digest, and what their headers say before Arrow unpacks them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import CorruptInput
from pipeline.prompts.parquet.thrift import Reader
from pipeline.wording import brief

LARGEST_PAGE = (
    512 << 20
)  # bytes of one page when unpacked; writers aim at 1 MiB, and one long value makes a page longer
MOST_ROWS = 1 << 31  # of one row group

_PIECE = 1 << 20
_HEADER = 1 << 10  # bytes that hold most page headers; statistics of long texts make one longer
_LONGEST_HEADER = 16 << 20
_DICTIONARY, _DATA, _DATA_V2 = 2, 0, 3


@dataclass(frozen=True, slots=True)
class Chunk:
    """One column of one row group, as the footer describes it.

    Attributes:
        column: The leaf's path in the schema.
        start: Its first byte in the file.
        length: Its number of bytes.
        unpacked: Bytes of its pages when unpacked.
        flat: Whether each row has exactly one value in it, null or not.
    """

    column: str
    start: int
    length: int
    unpacked: int
    flat: bool


@dataclass(frozen=True, slots=True)
class GroupScan:
    """The result of a pass over the raw pages of a row group.

    Attributes:
        digest: SHA-256 of the bytes of its chunks, one after the other; its first 32 hex digits.
        row_bytes: Bytes that a row has when decoded, on average.
        most_row_bytes: Bytes that a row may have, if each value is the longest of its dictionary.
        whole: Whether the headers of all its pages could be read.
        damaged: The first column with a page that does not have the checksum in its header; empty if there is none. Many
            writers write no checksums.
    """

    digest: str
    row_bytes: int
    most_row_bytes: int
    whole: bool
    damaged: str


def leaves(metadata: pq.FileMetaData, columns: Sequence[str]) -> list[int]:
    """Return the numbers of the leaves that belong to `columns`, in the order of the file."""
    wanted = set(columns)
    schema: Any = metadata.schema
    return [i for i in range(metadata.num_columns) if _top(schema.column(i).path, wanted) in wanted]


def chunks(metadata: pq.FileMetaData, group: int, numbers: list[int]) -> list[Chunk]:
    """Return the chunks of some leaves in a row group; the leaves must not be encrypted."""
    row_group, schema = metadata.row_group(group), metadata.schema
    found = []
    for i in numbers:
        chunk: Any = row_group.column(i)
        first, dictionary = chunk.data_page_offset, chunk.dictionary_page_offset
        start = dictionary if dictionary is not None and 0 < dictionary < first else first
        flat = schema.column(i).max_repetition_level == 0
        found.append(
            Chunk(chunk.path_in_schema, start, chunk.total_compressed_size, chunk.total_uncompressed_size, flat)
        )
    return found


def scan_group(file: pa.NativeFile, rows: int, found: list[Chunk], where: str) -> GroupScan:
    """Read the chunks of a row group once, a piece at a time, and check their page headers.

    Args:
        file: The file.
        rows: How many rows the footer gives the row group.
        found: What `chunks` returned.
        where: File and row group, for messages.

    Raises:
        CorruptInput: If a chunk lies beyond the file, a page is too large when unpacked, or the pages hold another number
            of rows than the footer says. Pages whose headers cannot be read are left to the decoder.
        OSError: If the file cannot be read.
    """
    digest = hashlib.sha256()
    plain = longest = 0
    all_whole, damaged = True, ""
    size = int(file.size())
    if not 0 <= rows < MOST_ROWS:
        raise CorruptInput(f"{where}: the footer gives it {rows} rows, which no file holds")
    for chunk in found:
        if chunk.length < 0 or chunk.start < 0 or chunk.start + chunk.length > size:
            raise CorruptInput(f"{where}, column {brief(chunk.column)}: its pages lie beyond the file's {size} bytes")
        stream = _Stream(file, chunk.start, chunk.length, digest)
        values, data, dictionary, whole = _walk(stream, chunk, where)
        all_whole &= whole
        damaged = damaged or (chunk.column if stream.damaged else "")
        stream.finish()
        if whole and (values != rows if chunk.flat else values < rows):
            raise CorruptInput(
                f"{where}, column {brief(chunk.column)}: the footer gives it {rows} rows, and its pages hold {values}"
            )
        plain += data if whole else max(data, chunk.unpacked)
        longest += dictionary * max(1, values // max(1, rows))
    each = plain // max(1, rows)
    return GroupScan(digest.hexdigest()[:32], each, each + longest, all_whole, damaged)


def _walk(stream: _Stream, chunk: Chunk, where: str) -> tuple[int, int, int, bool]:
    """Go from page header to page header.

    Returns:
        Values in data pages, bytes of these and of the dictionary when unpacked, and whether all headers could be read.
    """
    values = data = dictionary = 0
    try:
        for kind, unpacked, count in _headers(stream):
            if unpacked > LARGEST_PAGE:
                raise CorruptInput(
                    f"{where}, column {brief(chunk.column)}: a page unpacks to {unpacked:,} bytes, "
                    f"at most {LARGEST_PAGE:,} are read"
                )
            if kind == _DICTIONARY:
                dictionary = unpacked
            else:
                data += unpacked
            values += count
    except (IndexError, ValueError, KeyError, TypeError):
        return values, data, dictionary, False
    return values, data, dictionary, True


def _headers(stream: _Stream) -> Iterator[tuple[int, int, int]]:
    """Yield each page's type, its bytes when unpacked, and its number of values (0 unless it is a data page)."""
    position = 0
    while position < stream.length:
        header, used = _header(stream, position)
        kind, unpacked, packed = (int(header[i][1]) for i in (1, 2, 3))
        if packed < 0 or unpacked < 0:
            raise ValueError("a page with a negative size")
        if 4 in header:
            stream.check(position + used, packed, int(header[4][1]))
        inner = {_DATA: 5, _DATA_V2: 8}.get(kind)
        yield kind, unpacked, int(header[inner][1][1][1]) if inner is not None else 0
        position += used + packed
    if position > stream.length:
        raise ValueError("a page that is longer than its chunk")


def _header(stream: _Stream, position: int) -> tuple[dict[int, tuple[int, Any]], int]:
    length = _HEADER
    while True:
        reader = Reader(stream.at(position, length))
        try:
            return reader.struct(), reader.position
        except IndexError:
            if length >= min(_LONGEST_HEADER, stream.length - position):
                raise
            length *= 16


class _Stream:
    """Reads a chunk once, forwards, in large pieces, and adds each byte to the digest.

    `damaged`: whether `check` found that bytes do not have their checksum.
    """

    def __init__(self, file: pa.NativeFile, start: int, length: int, digest: Any) -> None:
        self._file, self._start, self.length, self._digest = file, start, length, digest
        self._held = b""
        self.damaged = False
        self._begin = self._read = 0  # place of `_held` in the chunk, and how far the chunk was read

    def at(self, position: int, count: int) -> bytes:
        """Return up to `count` bytes at a position that is not before an earlier one."""
        end = min(position + count, self.length)
        while self._read < end:
            drop = min(len(self._held), max(0, position - self._begin))
            self._held = self._held[drop:] + self._piece()
            self._begin += drop
        return self._held[position - self._begin : end - self._begin]

    def check(self, position: int, count: int, checksum: int) -> None:
        """Compare the CRC-32 of `count` bytes with what the header says, which is a signed number in some files."""
        found, end = 0, min(position + count, self.length)
        for start in range(position, end, _PIECE):
            found = zlib.crc32(self.at(start, min(_PIECE, end - start)), found)
        self.damaged |= found != checksum & 0xFFFFFFFF

    def finish(self) -> None:
        """Read what is left."""
        while self._read < self.length:
            self._piece()

    def _piece(self) -> bytes:
        wanted = min(_PIECE, self.length - self._read)
        piece: bytes = self._file.read_at(wanted, self._start + self._read)  # type: ignore[call-arg]
        if len(piece) < wanted:
            raise OSError("cut short while it was read")
        self._digest.update(piece)
        self._read += wanted
        return piece


def _top(path: str, wanted: set[str]) -> str:
    """Return the column to which a leaf belongs; a column's name may have dots."""
    if path in wanted:
        return path
    parts = path.split(".")
    return next((".".join(parts[:n]) for n in range(1, len(parts)) if ".".join(parts[:n]) in wanted), "")
