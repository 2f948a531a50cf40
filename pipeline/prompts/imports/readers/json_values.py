"""JSON that is not one object a line: a list of objects, or objects one after the other, however they are laid out.

A window moves over the text; Python's decoder says where an object ends, and then it is handled as a line.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator

from pipeline.errors import InputRefused
from pipeline.prompts.imports.chunk import CHUNK_BYTES, MOST_BYTES, OTHER_ENCODING
from pipeline.prompts.imports.opened import Opened
from pipeline.prompts.imports.readers.blocks import Block

_READ_BYTES = 1 << 20
_BLANK = re.compile(r"[ \t\r\n]*")
_LINE_ENDS = str.maketrans("\r\n", "  ")
_DECODER = json.JSONDecoder()
_TAIL = 16
"""A mistake within so many characters of the window's end may only mean that the rest is to come."""


def values(opened: Opened) -> Iterator[Block]:
    """Yield the objects of a file as lines of JSON, some megabytes at a time.

    Raises:
        InputRefused: If it is not JSON; names the line.
    """
    lines, numbers, held = list[bytes](), list[int](), 0
    for number, text in _Window(opened).texts():
        lines.append(text.translate(_LINE_ENDS).encode("utf-8", "surrogatepass"))
        numbers.append(number)
        held += len(lines[-1])
        if held >= CHUNK_BYTES:
            yield Block(opened.name, b"\n".join(lines), numbers)
            lines, numbers, held = [], [], 0
    if lines:
        yield Block(opened.name, b"\n".join(lines), numbers)


class _Window:
    """The part of a file that is looked at."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at, self._line, self._ended = "", 0, 1, False

    def texts(self) -> Iterator[tuple[int, str]]:
        """Yield the number of the line on which each value begins, and the value's text."""
        within = self._next() == "["
        if within:
            self._at += 1
        first = True
        while (character := self._next()) != ("]" if within else ""):
            if within and not first and character:
                if character != ",":
                    raise self._refused("is not JSON: a comma or ] is missing between the items of the list")
                self._at += 1
                character = self._next()
            if not character:
                raise self._refused("the list does not end: the file is cut off")
            first = False
            line = self._line
            yield line, self._value()
        self._at += 1 if within else 0
        if self._next():
            raise self._refused("there is something after the end of the list")

    def _next(self) -> str:
        """Advance to the next character that is not blank, and return it; empty at the end."""
        while True:
            end = _BLANK.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches nothing, too
            self._line += self._text.count("\n", self._at, end)
            self._at = end
            if end < len(self._text):
                return self._text[end]
            if not self._more(_READ_BYTES):
                return ""

    def _value(self) -> str:
        """Return the text of the value that begins here, and advance to its end."""
        while True:
            text, at = self._text, self._at
            try:
                _, end = _DECODER.raw_decode(text, at)
            except json.JSONDecodeError as error:
                in_string = error.msg.startswith("Unterminated string")
                cut = in_string or error.pos >= len(text) - _TAIL
                if cut and self._more(max(_READ_BYTES, len(text) - at)):
                    continue
                line = self._line + text.count("\n", at, error.pos)
                at_end = in_string or error.pos >= len(text)
                what = "the file is cut off within a value" if at_end else f"is not JSON: {error.msg}"
                raise InputRefused(f"{self._opened.name}: line {line}: {what}") from error
            except RecursionError as error:
                raise self._refused("is nested too deeply") from error
            except ValueError as error:
                raise self._refused(f"has a number that cannot be read: {error}") from error
            if end < len(text) or not self._more(_READ_BYTES):  # or a number may go on
                self._at = end if self._text is text else end - at
                self._line += text.count("\n", at, end)
                return text[at:end]

    def _more(self, count: int) -> bool:
        """Read on; false at the end of the file."""
        if self._ended:
            return False
        if len(self._text) - self._at > MOST_BYTES:
            raise self._refused(f"a value of more than {MOST_BYTES >> 20} MiB begins here")
        data = self._opened.read(count)
        try:
            more = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = self._line + self._text.count("\n", self._at) + data[: max(0, error.start)].count(b"\n")
            what = f"is not UTF-8: {error.reason}; {OTHER_ENCODING}"
            raise InputRefused(f"{self._opened.name}: line {line}: {what}") from error
        self._text, self._at, self._ended = self._text[self._at :] + more, 0, not data
        return not self._ended

    def _refused(self, what: str) -> InputRefused:
        return InputRefused(f"{self._opened.name}: line {self._line}: {what}")
