"""Cuts a stream into blocks of whole lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import InputRefused
from pipeline.prompts.imports.chunk import CHUNK_BYTES, MOST_BYTES
from pipeline.prompts.imports.opened import Opened

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines.

    Attributes:
        file: What messages call the file.
        data: The lines, which should be UTF-8; the last may lack its line end.
        first: The number of the first line, from 1; or the numbers of all lines.
    """

    file: str
    data: bytes
    first: int | list[int]

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield number and text of every line that is not blank."""
        for place, line in enumerate(self.data.split(b"\n")):
            if line.strip():
                yield self.first[place] if isinstance(self.first, list) else self.first + place, line

    def place(self, number: int) -> str:
        """A line, for a message."""
        return f"{self.file}: line {number}"


def blocks(opened: Opened) -> Iterator[Block]:
    """Yield the lines of a file, some megabytes at a time.

    Raises:
        InputRefused: If a line is longer than `MOST_BYTES`, or the file is damaged.
    """
    first, pieces, held = 1, list[bytes](), 0
    while data := opened.read(_READ_BYTES):
        pieces.append(data)
        held += len(data)
        if held < CHUNK_BYTES:
            continue
        end = data.rfind(b"\n") + 1
        if end:
            pieces[-1] = data[:end]
            whole = b"".join(pieces)
            yield Block(opened.name, whole, first)
            first += whole.count(b"\n")
            pieces = [data[end:]]
            held = len(data) - end
        elif held > MOST_BYTES:
            whole = b"".join(pieces)
            line = first + whole.count(b"\n")
            if len(whole) - whole.rfind(b"\n") > MOST_BYTES:
                raise InputRefused(
                    f"{opened.name}: line {line}: is longer than {MOST_BYTES >> 20} MiB; if this is one large JSON value, "
                    "format=json reads its items"
                )
            end = whole.rfind(b"\n") + 1
            yield Block(opened.name, whole[:end], first)
            first, pieces, held = line, [whole[end:]], len(whole) - end
    if held:
        yield Block(opened.name, b"".join(pieces), first)
