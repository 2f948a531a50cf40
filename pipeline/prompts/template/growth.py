"""Tells how large a text, list or number of a template is, and how large one would be, before it is computed."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from decimal import Decimal
from string import Formatter
from typing import Any

from jinja2.runtime import Undefined

MAX_CHARACTERS = 10_000_000
BIT = MAX_CHARACTERS // 20_000
"""What a bit of a whole number counts, so that numbers have at most 20 000."""
_ELEMENT = 5
"""Characters around an element of a list."""

_HOLDERS = (list, tuple, dict)
_PERCENT = re.compile(r"%(?:\([^()]*\))?([^a-zA-Z%]*)[hlL]?.", re.DOTALL)
_WIDE = re.compile(r"\d{4}|[*({]")


def check_size(size: int) -> int:
    """Return `size`, a number of characters or elements.

    Raises:
        OverflowError: If it is too large.
    """
    if size > MAX_CHARACTERS:
        raise OverflowError(
            f"too large: more than {MAX_CHARACTERS:,} characters, or a number that would lead to so many"
        )
    return size


def size_of(value: Any, *, text: bool) -> int:
    """Return approximately how many characters a value's text has; without `text`, only those around its elements.

    Elements of lists count at every depth, and each time they appear.

    Raises:
        TypeError: If the value is bytes, or an object whose text would be a memory address.
    """
    size, parts = 0, [value]
    while parts and size <= MAX_CHARACTERS:
        part = parts.pop()
        if isinstance(part, _HOLDERS):
            size += len(part) * _ELEMENT
            inner = (*part, *part.values()) if isinstance(part, dict) else part
            parts.extend(inner if text else [p for p in inner if isinstance(p, _HOLDERS)])
        elif text:
            size += _characters(part)
    return size


def _characters(value: Any) -> int:
    if isinstance(value, str | Undefined):
        return len(str(value))  # raises if undefined, unless it is the missing `else` of an inline `if`
    if isinstance(value, bytes):
        raise TypeError(
            "bytes are not text; `decode` turns them into text: {{ x.decode() }}, {{ x.decode('latin-1') }}"
        )
    if isinstance(value, int):
        return value.bit_length() // 3 + 1
    if isinstance(value, Decimal):
        return abs(value.adjusted()) + 40 if value.is_finite() else 10
    if value is None or isinstance(value, float | datetime.date | datetime.time | datetime.timedelta):
        return 25
    raise TypeError(f"a {type(value).__name__} is not text; a filter such as `list` or `join` may be missing")


def check_result(operation: str, weight: int, *args: Any, **kwargs: Any) -> None:
    """Check the result of an operator, filter or method before it is computed.

    Args:
        operation: Its name; the filter `format` has that of the operator, `%`.
        weight: The approximate number of characters of all its arguments.
        args: The text, list or number, and the options.
        kwargs: More options.

    Raises:
        OverflowError: If it would be too large.
        TypeError: If the operation does not take such values.
    """
    if operation in _RESULTS:
        check_size(_RESULTS[operation](weight, *args, **kwargs))


def _fields(weight: int, text: str, specs: list[str], *, once: bool = False) -> int:
    """Estimate the result: fields are at most 999 wide, and each value may be as long as all arguments besides the text."""
    wide = next(filter(_WIDE.search, specs), None)
    if wide is not None:
        raise OverflowError(f"a format with a width above 999, or with a width taken from the values: {wide[:40]!r}")
    values = max(0, weight - len(text))
    return len(text) + len(specs) * 999 + values * (1 if once else len(specs))


def _percent(weight: int, text: Any, *values: Any, **named: Any) -> int:
    once = not named and not any(isinstance(value, dict) for value in values)
    return _fields(weight, text, _PERCENT.findall(text), once=once) if isinstance(text, str) else 0


def _format(weight: int, text: str, *_: Any, **__: Any) -> int:
    return _fields(weight, text, [spec or "" for _, name, spec, _ in Formatter().parse(text) if name is not None])


def _repeated(_: int, left: Any, right: Any) -> int:
    text, times = (right, left) if isinstance(left, int) else (left, right)
    return len(text) * times if isinstance(text, str | list | tuple) and isinstance(times, int) else 0


def _power(_: int, base: Any, exponent: Any) -> int:
    if not (isinstance(base, int | float) and isinstance(exponent, int | float)):
        raise TypeError("** is for whole numbers and floats")
    return base.bit_length() * exponent * BIT if isinstance(base, int) and isinstance(exponent, int) else 0


def _by_options(_: int, value: Any, *options: Any, **named: Any) -> int:
    """Bound the numbers of columns, digits or blanks, and what fills a column: at most 1000 each."""
    sizes = [len(o) if isinstance(o, str) else abs(o) for o in (*options, *named.values()) if isinstance(o, int | str)]
    return max(sizes, default=0) * (MAX_CHARACTERS // 1000)


def _sum(_: int, values: Any, attribute: Any = None, start: Any = 0) -> int:
    if isinstance(start, list | tuple):
        raise TypeError("sum is for numbers")  # each list would be copied again and again
    return 0


_RESULTS: dict[str, Callable[..., int]] = {
    "*": _repeated,
    "**": _power,
    "%": _percent,
    "strftime": _percent,
    "format": _format,
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), lambda _, text, width=80, *__: width),
    **dict.fromkeys(("batch", "round", "slice", "tojson"), _by_options),
    "indent": lambda _, text, width=4, *__, **___: (
        len(str(text).splitlines()) * (len(width) if isinstance(width, str) else width)
    ),
    "join": lambda weight, separator, items: weight + len(separator) * len(items),
    "replace": lambda _, text, old, new, *__, **___: len(str(text)) + str(text).count(str(old)) * len(str(new)),
    "sum": _sum,
}
