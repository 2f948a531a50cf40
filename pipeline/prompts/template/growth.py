"""Refuses, before it is computed, what would make a text, list or number of a template far too large.

It does not know Jinja: it sees operators, methods and their arguments.
"""

from __future__ import annotations

import re
from typing import Any

MAX_CHARACTERS = 10_000_000
_MAX_BITS = 20_000
_MAX_OPTION = 1000
_MAX_WIDTH = 999  # three digits

_LONG_NUMBER = re.compile(r"\d{4}")
_PERCENT = re.compile(r"%(?:\([^()]*\))?([^a-zA-Z%]*)")
_NESTED_FIELD = re.compile(r"\{[^{}]*\{")


def check_length(length: int) -> int:
    """Return `length`, a number of characters or elements.

    Raises:
        OverflowError: If it is too large.
    """
    if length > MAX_CHARACTERS:
        raise OverflowError(f"a text or list of more than {MAX_CHARACTERS} characters")
    return length


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Check the result of `+`, `*`, `**` or `%`.

    Raises:
        OverflowError: If it would be too large.
        TypeError: If the operands are bytes.
    """
    if isinstance(left, bytes) or isinstance(right, bytes):
        raise TypeError(f"{operator} on bytes; `decode` makes text of them")
    sequence = (str, list, tuple)
    if operator == "+" and isinstance(left, sequence) and isinstance(right, sequence):
        check_length(len(left) + len(right))
    elif operator == "*":
        if isinstance(right, sequence):
            left, right = right, left
        if isinstance(left, sequence) and isinstance(right, int):
            check_length(len(left) * right)
        elif isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() + right.bit_length())
    elif operator == "**":
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise TypeError("** is for whole numbers and floats")
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * right)


def check_percent(text: str, values: Any, weight: int) -> None:
    """Check `text % values`; `weight` is about the number of characters of the values.

    Raises:
        OverflowError: If the result would be too large.
    """
    specs = _PERCENT.findall(text)
    if any("*" in spec for spec in specs):
        raise OverflowError("% with a width from the values")
    for spec in specs:
        check_widths(spec)
    # Only names can use a value more than once; `%a` may write ten characters for one.
    each = weight * 10 if isinstance(values, dict) else 0
    check_length(len(text) + weight * 10 + len(specs) * (_MAX_WIDTH + each))


def check_format(text: str, weight: int) -> None:
    """Check `text.format(...)`; `weight` is about the number of characters of the values.

    Raises:
        OverflowError: If the result would be too large.
    """
    if _NESTED_FIELD.search(text.replace("{{", "")):
        raise OverflowError("format with a width from the values")
    check_widths(text)
    check_length(len(text) + text.count("{") * (_MAX_WIDTH + weight))


def check_widths(text: str) -> None:
    """Check that a format has no number that could be a large width.

    Raises:
        OverflowError: If a number has four digits or more.
    """
    if _LONG_NUMBER.search(text):
        raise OverflowError(f"a format with a number above {_MAX_WIDTH}")


def check_method(text: str, name: str, args: tuple[Any, ...]) -> None:
    """Check the result of a method of `text`.

    Raises:
        OverflowError: If it would be too large.
    """
    if name in ("center", "ljust", "rjust", "zfill") and args and isinstance(args[0], int):
        check_length(args[0])
    elif name == "replace" and len(args) > 1 and isinstance(args[0], str) and isinstance(args[1], str):
        check_length(len(text) + text.count(args[0]) * len(args[1]))
    elif name == "join" and args and isinstance(args[0], list):
        check_length(sum(len(a) for a in args[0] if isinstance(a, str)) + len(text) * len(args[0]))


def check_filter(name: str, options: tuple[Any, ...]) -> None:
    """Check the options of those filters whose result grows with them.

    Raises:
        OverflowError: If an option is too large.
        TypeError: If `sum` does not begin with a number.
    """
    if name in ("do_batch", "sync_do_slice", "do_slice", "do_round", "do_tojson"):
        for option in options:
            if (isinstance(option, int) and abs(option) > _MAX_OPTION) or (
                isinstance(option, str) and len(option) > _MAX_OPTION
            ):
                raise OverflowError(f"{name.rpartition('do_')[2]}: an option above {_MAX_OPTION}")
    # A sum of lists would copy them again and again.
    if name in ("do_sum", "sync_do_sum") and any(isinstance(option, list | tuple) for option in options):
        raise TypeError("sum is for numbers")


def _check_bits(bits: int) -> None:
    if bits > _MAX_BITS:
        raise OverflowError(f"a number of more than {_MAX_BITS} bits")
