"""A Jinja environment in which a template can neither reach Python's insides nor use up the machine.

It does not know about rows or columns. Work is counted in steps and characters, not in seconds: a template that is
refused on one machine is refused on all of them.
"""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Any

import jinja2
from jinja2 import pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Joiner

from pipeline.prompts.template import growth
from pipeline.prompts.template.instrument import CONCAT, LOOP, WEIGHED
from pipeline.prompts.template.methods import is_harmless

MAX_STEPS = 1_000_000  # iterations, calls and list elements handled, for one row
_COPIED = 1000  # characters copied are one step
_MACRO = 25  # steps for entering a macro or a loop in a loop, which takes that much longer than an iteration

# `random` and `lipsum` would give other bytes each time; the others left out can multiply what they are given.
_TEXT_FILTERS = [
    "capitalize", "e", "escape", "filesizeformat", "forceescape", "lower", "safe", "string", "title", "tojson",
    "trim", "truncate", "upper", "urlencode", "wordcount",
]  # fmt: skip
_LIST_FILTERS = [
    "abs", "batch", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "last",
    "length", "list", "map", "max", "min", "reject", "rejectattr", "reverse", "round", "select", "selectattr",
    "slice", "sort", "sum", "unique",
]  # fmt: skip


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template; `start` before each rendering."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        """Keep only what is bounded and gives the same result each time."""
        # Not optimised: nothing is computed when the template is compiled.
        super().__init__(
            undefined=jinja2.StrictUndefined, autoescape=False, loader=None, optimized=False, finalize=self._printed,
            keep_trailing_newline=True,
        )  # fmt: skip
        del self.globals["lipsum"]
        self._functions = tuple(self.globals.values())
        given = dict(self.filters)
        self.filters.clear()
        for names, charge in ((_TEXT_FILTERS, self.weigh), (_LIST_FILTERS, self._charge_elements)):
            self.filters.update({name: self._charged(given[name], charge) for name in names})
        self.filters.update(
            center=self._center, format=self._format, indent=self._indent, join=self._join, replace=self._replace,
        )  # fmt: skip
        self.filters.update({LOOP: self._loop, CONCAT: self._concat, WEIGHED: self._weighed})
        self.start()

    def start(self) -> None:
        """Begin a rendering: nothing is used yet."""
        self._steps = 0
        self._characters = 0

    # --- what the compiled template calls

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right` if the result stays small."""
        if operator == "%" and isinstance(left, str):
            growth.check_percent(left, right, self.weigh(right))
        else:
            growth.check_operator(operator, left, right)
        result = super().call_binop(context, operator, left, right)
        self._spend(1 + _copied(result))
        return result

    def is_safe_callable(self, obj: Any) -> bool:
        """Whether `obj` may be called: macros, Jinja's functions, and the methods above that cannot do harm."""
        if isinstance(obj, Undefined | Macro | LoopContext | Joiner):
            return True  # calling an undefined value raises its own error
        method = _method(obj)
        owner = getattr(method, "__self__", None)
        if owner is None or isinstance(owner, type):
            return any(obj is function for function in self._functions)
        return is_harmless(owner, getattr(method, "__name__", ""))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function or method if it may be called and its result stays small."""
        if not __self.is_safe_callable(__obj):
            raise SecurityError(f"{type(__obj).__name__} {getattr(__obj, '__name__', '')!r} may not be called")
        method = _method(__obj)
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, str):
            if name == "join" and args:
                args = (list(__self._loop(args[0])), *args[1:])
            if name == "format":
                weight = sum(map(__self.weigh, (*args, *kwargs.values())))
                growth.check_format(owner, weight)
            else:
                growth.check_method(owner, name, args)
        elif name == "strftime" and args:
            growth.check_widths(str(args[0]))
        elif isinstance(__obj, LoopContext) and args:
            args = (__self._loop(args[0]), *args[1:])
        __self._spend((_MACRO if isinstance(__obj, Macro | LoopContext) else 1) + sum(_size(a) for a in (owner, *args)))
        result = super().call(__context, __obj, *args, **kwargs)
        __self._spend(_size(result))
        return result

    # --- counting

    def weigh(self, value: Any) -> int:
        """Return about how many characters `value` has as text, at least.

        Raises:
            TypeError: If it is no data, whose text would be a memory address, or bytes, whose text would be Python's.
            OverflowError: If it is too much.
        """
        weight = self._weight(value)
        growth.check_length(weight)
        self._spend(_copied(value))
        return weight

    def _weight(self, value: Any) -> int:
        if isinstance(value, str):
            return len(value)
        if isinstance(value, bytes):
            raise TypeError(
                "bytes are no text; `decode` makes text of them: {{ x.decode() }}, {{ x.decode('latin-1') }}"
            )
        if value is None or isinstance(value, bool | float):
            return 25
        if isinstance(value, int):
            return value.bit_length() // 3 + 1
        if isinstance(value, list | tuple | dict):
            self._spend(len(value))
            parts: Iterable[Any] = value
            if isinstance(value, dict):
                parts = (part for item in value.items() for part in item)
            total = 2
            for part in parts:
                total += 2 + self._weight(part)
                growth.check_length(total)
            return total
        if isinstance(value, Decimal):
            return abs(value.adjusted()) + 40 if value.is_finite() else 10
        if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
            return 40
        if isinstance(value, Undefined):
            return len(str(value))  # raises, unless it is the missing `else` of an inline `if`
        raise TypeError(f"a {type(value).__name__} is no text; a filter such as `list` or `join` may be missing")

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise OverflowError(f"the template does more than {MAX_STEPS} steps of work")

    def _charge_elements(self, value: Any) -> None:
        self._spend(len(value) if isinstance(value, str | bytes) else _size(value))

    @pass_context
    def _printed(self, context: Context, value: Any) -> Any:
        """What `{{ value }}` prints. A null would become the word None in a prompt, which nobody wants."""
        if value is None:
            raise TypeError("a null is printed; write {{ x or '' }} if it may be empty")
        self._spend(1)
        self._characters += self.weigh(value)
        growth.check_length(self._characters)
        return value

    # --- filters

    def _charged(self, function: Callable[..., Any], charge: Callable[[Any], Any]) -> Callable[..., Any]:
        """Wrap a filter of Jinja's so that the size of its value counts and its options stay small."""
        place = 1 if hasattr(function, "jinja_pass_arg") else 0
        name = function.__name__

        @functools.wraps(function)
        def filtered(*args: Any, **kwargs: Any) -> Any:
            self._spend(1)
            if not isinstance(args[place], Undefined):
                charge(args[place])
            growth.check_filter(name, (*args[place + 1 :], *kwargs.values()))
            result = function(*args, **kwargs)
            self._spend(_copied(result))
            return result

        return filtered

    def _loop(self, value: Any) -> Any:
        """What a loop goes over: paid at once if its length is known, else as it goes."""
        if isinstance(value, list | tuple | dict | range | str):
            self._spend(len(value))
            return value
        return self._paying(value)

    def _paying(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._spend(1)
            yield value

    def _concat(self, values: list[Any]) -> str:
        self.weigh(values)
        return "".join(map(str, values))

    def _weighed(self, value: Any) -> Any:
        self._spend(1 + _copied(value))
        self._walk(value)
        return value

    def _walk(self, value: Any) -> None:
        """Count what a comparison visits: a list that shares its parts is as large as it looks, not as it is stored."""
        if isinstance(value, list | tuple | dict):
            self._spend(len(value))
            for part in value.values() if isinstance(value, dict) else value:
                self._walk(part)

    def _center(self, value: Any, width: int = 80) -> str:
        self.weigh(value)
        growth.check_length(width)
        return str(value).center(width)

    def _format(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if args and kwargs:
            raise TypeError("format: positional and named values at once")
        given: Any = kwargs or args
        growth.check_percent(str(value), given, self.weigh(given))
        text: str = str(value) % given
        return text

    def _indent(self, value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        self.weigh(value)
        prefix = width if isinstance(width, str) else " " * growth.check_length(width)
        lines = str(value).splitlines(keepends=True)
        growth.check_length(len(str(value)) + len(lines) * len(prefix))
        return "".join(
            prefix + line if (first or i) and (blank or line.strip()) else line for i, line in enumerate(lines)
        )

    def _join(self, value: Any, d: str = "", attribute: str | int | None = None) -> str:
        items = list(self._loop(value))
        if attribute is not None:
            items = [functools.reduce(self.getitem, _path(attribute), item) for item in items]
        weight = self.weigh(items)
        growth.check_length(weight + len(str(d)) * len(items))
        return str(d).join(map(str, items))

    def _replace(self, value: Any, old: str, new: str, count: int | None = None) -> str:
        self.weigh(value)
        self.weigh(new)
        text = str(value)
        growth.check_method(text, "replace", (str(old), str(new)))
        return text.replace(str(old), str(new), -1 if count is None else count)


def _method(obj: Any) -> Any:
    """The method itself where Jinja has wrapped `str.format`."""
    return obj if isinstance(obj, Undefined) else getattr(obj, "__wrapped__", obj)


def _path(attribute: str | int) -> list[str | int]:
    return [attribute] if isinstance(attribute, int) else [int(p) if p.isdigit() else p for p in attribute.split(".")]


def _copied(value: Any) -> int:
    """Steps for making a copy of a text or list."""
    return len(value) // _COPIED if isinstance(value, str | bytes | list | tuple) else 0


def _size(value: Any) -> int:
    """Steps for going through a value once."""
    return len(value) if isinstance(value, list | tuple | dict | range) else _copied(value)
