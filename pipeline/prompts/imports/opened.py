"""One file as a stream of UTF-8: unpacked as its first bytes say, and brought to UTF-8 from another encoding."""

from __future__ import annotations

import codecs
import lzma
import re
from io import IOBase
from types import TracebackType
from typing import Any, BinaryIO, cast

import pyarrow as pa

from pipeline.errors import InputRefused
from pipeline.prompts.imports.inputs import Input
from pipeline.wording import one_line

_MAGIC = {
    b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"\xfd7zXZ\x00": "xz",
}  # fmt: skip
_NO_TEXT = {
    b"PAR1": "a Parquet file: generate reads it as it is",
    b"PK\x03\x04": "a zip archive or a spreadsheet: unpack it or save it as CSV",
    b"ARROW1": "an Arrow file: write it as Parquet", b"SQLite format 3": "a database: export its table as CSV",
    b"ORC": "an ORC file: write it as Parquet", b"%PDF": "a PDF", b"\x7fELF": "a program",
}  # fmt: skip
_BINARY = re.compile(rb"[\x00-\x08]")
_MARKS = {
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be",
}  # fmt: skip
"""Byte order marks, the longer before those that they begin with."""
PEEK = 1 << 16


class Opened:
    """An open input file, decompressed and decoded to UTF-8.

    Attributes:
        name: What to call it.
        encoding: The encoding of the file.
    """

    def __init__(self, file: Input, encoding: str | None = None) -> None:
        """Open a file and look at its first bytes.

        Raises:
            InputRefused: If it cannot be opened, or is no text.
        """
        self.name = one_line(file.name)
        self._lines = 0
        try:
            self._raw: Any = file.filesystem.open_input_stream(file.path, compression=None)
        except OSError as error:
            raise InputRefused(f"{self.name}: cannot be opened: {_reason(error)}") from error
        raw_head = self._packed(8)
        self.packing = next((kind for magic, kind in _MAGIC.items() if raw_head.startswith(magic)), "")
        self._joined = _Joined(raw_head, self._raw)
        self._stream = self._unpacked(self._joined)
        self._head = b""
        head = self._peeked(PEEK)
        for magic, what in _NO_TEXT.items():
            if head.startswith(magic) and (magic != b"ORC" or _BINARY.search(head)):  # CSV may begin with ORCID
                raise InputRefused(f"{self.name}: is {what}")
        mark, found = next(((m, e) for m, e in _MARKS.items() if head.startswith(m)), (b"", ""))
        self._head = head[len(mark) :]
        self.encoding = found or encoding or "utf-8"
        plain = codecs.lookup(self.encoding).name == "utf-8"
        self._decoder = None if plain else codecs.getincrementaldecoder(self.encoding)()
        self._ready = b""

    def _packed(self, count: int) -> bytes:
        try:
            return bytes(self._raw.read(count))
        except OSError as error:
            raise InputRefused(f"{self.name}: cannot be read: {_reason(error)}") from error

    def _unpacked(self, raw: _Joined) -> Any:
        if not self.packing:
            return raw
        if self.packing == "xz":
            return lzma.LZMAFile(cast(BinaryIO, raw))
        file, packing = cast(IOBase, raw), cast(Any, self.packing)
        return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), packing)

    def _peeked(self, count: int) -> bytes:
        while len(self._head) < count and (more := self._read_stream(count - len(self._head))):
            self._head += more
        return self._head

    def peek(self, count: int = PEEK) -> bytes:
        """Return the next bytes, at most `count`, without taking them."""
        while len(self._ready) < count and (more := self._next(count)):
            self._ready += more
        return self._ready[:count]

    def read(self, count: int) -> bytes:
        """Return about `count` bytes of UTF-8; none at the end.

        Raises:
            InputRefused: If it is damaged, cut off, or not in its encoding.
        """
        data, self._ready = self._ready, b""
        data = data or self._next(count)
        self._lines += data.count(b"\n")
        return data

    def _next(self, count: int) -> bytes:
        if self._head:
            data, self._head = self._head, b""
        else:
            data = self._read_stream(count)
        if self._decoder is None:
            return data
        while True:
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                line = self._lines + error.object[: error.start].decode(self.encoding, "replace").count("\n") + 1
                raise InputRefused(f"{self.name}: line {line}: is not {self.encoding}: {error.reason}") from error
            if text or not data:
                return text.encode("utf-8", "surrogatepass")
            data = self._read_stream(count)

    def _read_stream(self, count: int) -> bytes:
        try:
            return bytes(self._stream.read(count))
        except (OSError, EOFError, lzma.LZMAError) as error:
            what = f"its {self.packing} data are damaged or cut off" if self.packing else "cannot be read"
            raise InputRefused(
                f"{self.name}: line {self._lines + 1}, or soon after it: {what} ({_reason(error)}); fetch the file again"
            ) from error

    @property
    def position(self) -> int:
        """Bytes of the file that were read."""
        return self._joined.given

    def __enter__(self) -> Opened:
        """Nothing more to do."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close it."""
        self._raw.close()


class _Joined:
    """A stream whose first bytes were read already, from its beginning."""

    closed = False

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = head, rest
        self.given = 0

    def read(self, count: int = -1) -> bytes:
        if self._head:
            data = self._head if count < 0 else self._head[:count]
            self._head = self._head[len(data) :]
        else:
            data = bytes(self._rest.read(None if count < 0 else count))
        self.given += len(data)
        return data

    def seekable(self) -> bool:
        return False

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def close(self) -> None:
        """The stream belongs to another."""


def _reason(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return one_line(strerror or error)
