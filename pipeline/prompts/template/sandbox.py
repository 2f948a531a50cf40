"""A Jinja environment in which a row's values neither reach Python's insides nor use up the machine.

The template is its user's own; foreign are the values, and any of them may be a width, a factor, a separator or a format.
No text or list becomes larger than `MAX_CHARACTERS`, and a row takes at most `MAX_STEPS`: steps, not seconds, so that a row
that is refused on one machine is refused on all. How long a step may take is not bounded here; a replica that gets nothing
done for too long is replaced.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2 import StrictUndefined, pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import make_attrgetter
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Joiner

from pipeline.prompts.template.growth import BIT, check_result, check_size, size_of
from pipeline.prompts.template.instrument import LOOP, WEIGHED

MAX_STEPS = 100_000_000
"""For one row. A character that is made is a step, and so are ten that are looked at."""
_ITERATION, _CALL = 100, 2500
"""Steps of an iteration, filter, method, or of two elements that a filter goes through; and of entering a macro."""

# `random` and `lipsum` would give other bytes each time; the others left out can multiply what they are given.
_TEXT_FILTERS = frozenset({
    "capitalize", "center", "e", "escape", "filesizeformat", "forceescape", "format", "indent", "lower", "replace", "safe",
    "string", "title", "tojson", "trim", "truncate", "upper", "urlencode", "wordcount",
})  # fmt: skip
_OTHER_FILTERS = frozenset({
    "abs", "batch", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "last", "length",
    "list", "map", "max", "min", "reject", "rejectattr", "reverse", "round", "select", "selectattr", "slice", "sort", "sum",
    "unique",
})  # fmt: skip
_METHODS = frozenset({
    "capitalize", "casefold", "center", "changed", "copy", "count", "cycle", "date", "decode", "endswith", "find", "format",
    "get", "index", "is_integer", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier", "islower",
    "isnumeric", "isocalendar", "isoformat", "isoweekday", "isprintable", "isspace", "istitle", "isupper", "items", "join",
    "keys", "ljust", "lower", "lstrip", "next", "partition", "removeprefix", "removesuffix", "replace", "reset", "rfind",
    "rindex", "rjust", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strftime", "strip", "swapcase",
    "time", "timestamp", "title", "total_seconds", "upper", "values", "weekday", "zfill",
})  # fmt: skip


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template; `start` before each rendering."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        """Keep only filters, tests and functions that are bounded and deterministic."""
        # Not optimised: nothing is computed when the template is compiled.
        super().__init__(
            undefined=StrictUndefined, autoescape=False, optimized=False, finalize=self._printed, keep_trailing_newline=True,
        )  # fmt: skip
        del self.globals["lipsum"]
        self._functions = tuple(self.globals.values())
        given = {**self.filters, "indent": _indent}
        self.filters = {name: self._counted(name, given[name]) for name in _TEXT_FILTERS | _OTHER_FILTERS}
        self.filters.update({"join": self._join, LOOP: self._loop, WEIGHED: self._weighed})
        self.start()

    def start(self) -> None:
        """Begin a rendering, with the steps counted from 0."""
        self._steps = 0

    def concat(self, pieces: Iterable[str]) -> str:
        """Join the output of a template, macro or block as it comes, and stop when it is too long."""
        kept, length = [], 0
        for piece in pieces:
            length = check_size(length + len(piece))
            kept.append(piece)
        return "".join(kept)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right` if the result stays small."""
        text = isinstance(left, bytes) or isinstance(right, bytes) or (operator == "%" and isinstance(left, str))
        check_result(operator, self._weigh([left, right], text=True) if text else 0, left, right)
        return self._made(super().call_binop(context, operator, left, right))

    def is_safe_callable(self, obj: Any) -> bool:
        """Whether `obj` may be called: macros, Jinja's functions, and the methods above, which change nothing."""
        if isinstance(obj, Undefined | Macro | LoopContext | Joiner):
            return True  # calling an undefined value raises its own error
        owner, name = _method(obj)
        if owner is None:
            return any(obj is function for function in self._functions)
        return name in _METHODS and (name == "decode" or not isinstance(owner, bytes))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function or method if it may be called and its result stays small."""
        owner, name = _method(obj)
        if not self.is_safe_callable(obj):
            raise SecurityError(f"{name or type(obj).__name__!r} may not be called")
        self._spend(_CALL if owner is None else _ITERATION)
        if isinstance(obj, LoopContext):  # goes over its argument as a loop does
            args = tuple(map(self._loop, args))
        elif isinstance(owner, str):
            if name == "join":
                args = tuple(list(self._loop(values)) for values in args)
            check_result(name, self._weigh([owner, *args, *kwargs.values()], text=True), owner, *args, **kwargs)
        elif name == "strftime":
            check_result(name, 0, *args, *kwargs.values())
        elif name == "timestamp" and owner.tzinfo is None:
            raise TypeError(
                "a moment without a time zone has another timestamp on each machine; give the column a time zone"
            )
        return self._made(super().call(context, obj, *args, **kwargs))

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise OverflowError(f"the template does more than {MAX_STEPS:,} steps of work")

    def _weigh(self, value: Any, *, text: bool) -> int:
        """Count what an operation reads: the characters of a text, or the elements of a list, which take Python code."""
        size = check_size(size_of(value, text=text))
        self._spend(size // 10 if text else size * 10)
        return size

    def _weighed(self, value: Any) -> Any:
        self._weigh(value, text=isinstance(value, str))
        return value

    def _made(self, value: Any) -> Any:
        """Count a result; its elements were counted when they were made."""
        if isinstance(value, str | list | tuple):
            self._spend(check_size(len(value)))
        elif isinstance(value, int):
            check_size(value.bit_length() * BIT)
        return value

    def _loop(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._spend(_ITERATION)
            yield value

    @pass_context
    def _printed(self, context: Context, value: Any) -> Any:
        """Return what `{{ value }}` prints. None is refused: it would put the word None into a prompt."""
        if value is None:
            raise TypeError("the template prints a null; write {{ x or '' }} if it may be empty")
        self._spend(self._weigh(value, text=True))
        return value

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a filter: its arguments and its result are counted, and the result stays small."""
        place = int(hasattr(function, "jinja_pass_arg"))

        @functools.wraps(function)
        def filtered(*args: Any, **kwargs: Any) -> Any:
            given = args[place:]
            self._spend(_ITERATION)
            weight = self._weigh([*given, *kwargs.values()], text=name in _TEXT_FILTERS)
            check_result("%" if name == "format" else name, weight, *given, **kwargs)
            return self._made(function(*args, **kwargs))

        return filtered

    def _join(self, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        if attribute is not None:
            values = map(make_attrgetter(self, attribute), values)
        items = list(self._loop(values))
        check_result("join", self._weigh([*items, d], text=True), str(d), items)
        return str(d).join(map(str, items))


def _method(obj: Any) -> tuple[Any, str]:
    """Return the object whose method `obj` is (None: not a method), and its name, also if Jinja wrapped it, as `str.format`."""
    method = getattr(obj, "__wrapped__", obj)
    return getattr(method, "__self__", None), getattr(method, "__name__", "")


def _indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Indent as Jinja does, but keep line ends, and lines of blanks, as they are."""
    prefix = width if isinstance(width, str) else " " * width
    lines = str(value).splitlines(keepends=True)
    return "".join(prefix + line if (first or i) and (blank or line.strip()) else line for i, line in enumerate(lines))
