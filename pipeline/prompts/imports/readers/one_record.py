"""One record of JSON, read strictly: what no column can hold as it is, or what is surely a mistake, is `Unusable`."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from pipeline.prompts.imports.kinds import MOST_DEEP
from pipeline.wording import brief, one_line

OPENINGS = 1000
"""Most brackets in a line whose depth is not checked: at some thousands of levels, Arrow's parser ends the process."""
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_LARGEST = 2**63
_KINDS = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}


class Unusable(ValueError):
    """A line is not a usable record; the text says why."""


def record_of(line: bytes) -> dict[str, Any]:
    """Return the object that a line holds.

    Raises:
        Unusable: If it is not an object, or holds something that a column would lose.
    """
    if too_deep(line):
        raise Unusable(f"is nested in more than {MOST_DEEP} levels")
    try:
        text = line.decode()
        value = STRICT.decode(text)
    except UnicodeDecodeError as error:
        raise Unusable(f"is not UTF-8: {error.reason} at byte {error.start + 1}") from error
    except json.JSONDecodeError as error:
        raise Unusable(f"is not JSON: {error.msg} at character {error.pos + 1}") from error
    except RecursionError as error:
        raise Unusable(f"is nested in more than {MOST_DEEP} levels") from error
    return as_record(value, text)


def as_record(value: Any, text: str) -> dict[str, Any]:
    """Return a parsed value, if it is an object.

    Args:
        value: The value.
        text: Its JSON.

    Raises:
        Unusable: If it is something else, or contains half a surrogate pair.
    """
    if not isinstance(value, dict):
        raise Unusable(f"is {_KINDS[type(value)]}, not an object with a field for each column")
    if "\\u" in text:
        try:
            dumped(value).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            raise Unusable(f"has half of a surrogate pair ({half}), which is not text") from error
    return value


def dumped(value: Any) -> str:
    """Return a value as JSON text."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def too_deep(line: bytes) -> bool:
    """Whether objects and lists are nested so deeply that a parser may crash."""
    if line.count(b"{") + line.count(b"[") <= OPENINGS:
        return False
    depth = 0
    for bracket in re.findall(rb"[\[\]{}]", _STRING.sub(b"", line)):
        depth += 1 if bracket in b"[{" else -1
        if depth > 2 * MOST_DEEP:
            return True
    return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Unusable(f"has the field {brief(twice)} twice")
    return found


def _whole(text: str) -> int:
    value = int(text) if len(text) < 25 else _LARGEST
    if not -_LARGEST <= value < _LARGEST:
        raise Unusable(f"has a whole number of more than 64 bits ({one_line(text, 30)}); write it in quotes, as text")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise Unusable(
            f"has the number {one_line(text, 30)}, which is too large for 64 bits; write it in quotes, as text"
        )
    return value


STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole, parse_float=_finite)
