"""CSV and TSV: the first line names the columns, and every value is text, so that 007 stays 007.

A quoted value may have line ends in it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipeline.errors import InputRefused
from pipeline.prompts.imports.chunk import CHUNK_BYTES, MOST_BYTES, OTHER_ENCODING, Bad, Chunk
from pipeline.prompts.imports.opened import Opened
from pipeline.prompts.imports.readers.blocks import blocks
from pipeline.wording import brief, counted, one_line

DELIMITERS = ",;\t|"


def rows(opened: Opened, delimiter: str | None) -> Iterator[Chunk]:
    """Yield the rows of a file, some megabytes at a time; at least one chunk, which has the columns.

    Args:
        opened: The file.
        delimiter: The character between values; None: the one of `DELIMITERS` that is most frequent in the first line.

    Raises:
        InputRefused: If it has no header, a quoted value does not end, or it is not UTF-8; names the line.
    """
    csv.field_size_limit(MOST_BYTES)
    if delimiter is None:
        head = opened.peek().partition(b"\n")[0].decode(errors="replace")
        delimiter = max(DELIMITERS, key=re.sub('"[^"]*"', "", head).count)
    progress = _Progress()
    reader = csv.reader(_lines(opened, progress), delimiter=delimiter, strict=True)
    names = _header(opened, reader)
    held, bad = list[list[str]](), list[Bad]()
    yield Chunk(_table(names, held), [])
    before = reader.line_num
    while True:
        line = before + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            bad.append((f"{opened.name}: line {line}", _told(opened, line, error)))
            row = []
        before = reader.line_num
        if row is None:
            break
        if len(row) == len(names):
            held.append(row)
        elif row:
            what = f"has {counted(len(row), 'value')} for {counted(len(names), 'column')}"
            bad.append((f"{opened.name}: line {line}", f"{what}; a value with {brief(delimiter)} in it needs quotes"))
        if progress.bytes >= CHUNK_BYTES:
            yield Chunk(_table(names, held), bad)
            held, bad, progress.bytes = [], [], 0
    yield Chunk(_table(names, held), bad)


class _Progress:
    """How many bytes were taken since the last chunk."""

    bytes = 0


def _lines(opened: Opened, progress: _Progress) -> Iterator[str]:
    for block in blocks(opened):
        try:
            text = block.data.decode()
        except UnicodeDecodeError as error:
            assert isinstance(block.first, int)
            line = block.first + block.data.count(b"\n", 0, error.start)
            raise InputRefused(f"{opened.name}: line {line}: is not UTF-8: {error.reason}; {OTHER_ENCODING}") from error
        for line_text in text.splitlines(keepends=True) if _plain(text) else _split(text):
            progress.bytes += len(line_text)
            yield line_text


def _plain(text: str) -> bool:
    """Whether `str.splitlines`, which is faster, would split the text at the same places."""
    return text.isascii() and not any(c in text for c in "\r\v\f\x1c\x1d\x1e")


def _split(text: str) -> Iterator[str]:
    start = 0
    while (end := text.find("\n", start) + 1) > 0:
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _header(opened: Opened, reader: Iterator[list[str]]) -> list[str]:
    try:
        names = next((row for row in reader if row), None)
    except csv.Error as error:
        raise InputRefused(f"{opened.name}: line 1: {_told(opened, 1, error)}") from error
    if names is None:
        raise InputRefused(f"{opened.name}: is empty: the first line has to name the columns")
    named = [name.strip() or f"column_{place}" for place, name in enumerate(names, start=1)]
    if twice := next((name for name in named if named.count(name) > 1), None):
        raise InputRefused(f"{opened.name}: line 1: names the column {brief(twice)} twice; rename one")
    return named


def _told(opened: Opened, line: int, error: csv.Error) -> str:
    """Return what is wrong with a row.

    Raises:
        InputRefused: If the rows after it cannot be told apart any more.
    """
    text = str(error)
    if "unexpected end of data" in text or "field larger" in text:
        end = "the file ends" if "end of data" in text else f"{MOST_BYTES >> 20} MiB have passed"
        raise InputRefused(f"{opened.name}: line {line}: a quote that opens in this row is not closed before {end}")
    if "new-line character" in text:
        return r"has a carriage return that ends no line and is not in quotes: lines end with \n or \r\n"
    return f"is not CSV: {one_line(text)}; a quote within a value is written twice"


def _table(names: Sequence[str], held: Sequence[Sequence[str]]) -> pa.Table:
    columns = zip(*held, strict=True) if held else [()] * len(names)
    return pa.table({name: pa.array(values, pa.string()) for name, values in zip(names, columns, strict=True)})
