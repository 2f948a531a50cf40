"""Names the methods that a template may call.

It does not know how large their results are; `growth` does.
"""

from __future__ import annotations

import datetime

from jinja2.runtime import LoopContext
from jinja2.utils import Cycler

_TEXT_METHODS = frozenset({
    "capitalize", "casefold", "center", "count", "endswith", "find", "format", "index", "isalnum", "isalpha",
    "isascii", "isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle",
    "isupper", "join", "ljust", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind",
    "rindex", "rjust", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase",
    "title", "upper", "zfill",
})  # fmt: skip

_METHODS: list[tuple[type | tuple[type, ...], frozenset[str]]] = [
    (str, _TEXT_METHODS),
    (bytes, frozenset({"decode"})),
    ((list, tuple), frozenset({"count", "index", "copy"})),
    (dict, frozenset({"get", "items", "keys", "values", "copy"})),
    (datetime.datetime, frozenset({"date", "time", "timestamp"})),
    ((datetime.date, datetime.time), frozenset({"isoformat", "isocalendar", "isoweekday", "weekday", "strftime"})),
    (datetime.timedelta, frozenset({"total_seconds"})),
    (float, frozenset({"is_integer"})),
    (Cycler, frozenset({"next", "reset"})),
    (LoopContext, frozenset({"cycle", "changed"})),
]  # fmt: skip


def is_harmless(owner: object, name: str) -> bool:
    """Whether the method `name` of `owner` neither changes anything nor reaches beyond its arguments."""
    return any(isinstance(owner, kind) and name in names for kind, names in _METHODS)
