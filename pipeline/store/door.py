"""Reads all JSON files of a job, and checks their size, depth, form and types before anything uses them.

A form is a type: of JSON values (`int`, `str`, `float`, `bool`, `Any`, `X | None`), `Mapping[str, X]`, `tuple[X, ...]`, or
a dataclass, whose fields are an object's keys.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pipeline.store.base import Store

MOST_BYTES = 1 << 30
"""Most bytes of a job's file: the plan of a million input files has half of that."""
DEEPEST = 64
"""Deepest nesting of objects and lists."""
T = TypeVar("T")


def fetch(store: Store, name: str, most: int = MOST_BYTES) -> bytes:
    """Return the content of a file.

    Raises:
        FileNotFoundError: If there is no file of that name.
        ValueError: If it is larger than `most`; it is not read then.
    """
    size = store.size(name)
    if size > most:
        raise ValueError(f"it has {size:,} bytes, and can have {most:,} at most")
    return store.get(name)


def parse(data: bytes, form: type[T], hook: Callable[[dict[str, Any]], Any] | None = None) -> T:
    """Return JSON as a value of a form.

    Args:
        data: The content of a file.
        form: What it must be.
        hook: Called with each object as soon as it is parsed; its result replaces the object.

    Raises:
        ValueError: If it is not of the form; the message says where.
    """
    try:
        found = json.loads(data, object_hook=hook, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("its objects and lists are nested too deeply") from None
    value: T = checked(found, form, "")
    return value


def checked(value: Any, form: Any, where: str) -> Any:
    """Return a JSON value as a value of a form.

    Raises:
        ValueError: If it is not of the form.
    """
    if form is Any:
        _check_depth(value, where)
        return value
    origin = typing.get_origin(form)
    if origin in (types.UnionType, typing.Union):
        inner = [f for f in typing.get_args(form) if f is not types.NoneType]
        return None if value is None else checked(value, inner[0], where)
    if origin is tuple:
        item = typing.get_args(form)[0]
        if not isinstance(value, list | tuple):
            raise _wrong(value, "a list", where)
        return tuple(checked(v, item, f"{where}[{i}]") for i, v in enumerate(value))
    if form is Mapping or origin is Mapping or (isinstance(origin, type) and issubclass(origin, Mapping)):
        inner_form = typing.get_args(form)[1] if origin is not None else Any
        if not isinstance(value, dict):
            raise _wrong(value, "an object", where)
        return {key: checked(v, inner_form, _under(where, key)) for key, v in value.items()}
    if dataclasses.is_dataclass(form):
        return value if type(value) is form else _made(value, form, where)
    return _plain(value, form, where)


def _plain(value: Any, form: Any, where: str) -> Any:
    wanted = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[form]
    right = type(value) is form or (form is float and type(value) is int)
    if not right:
        raise _wrong(value, wanted, where)
    return value


def _made(value: Any, form: Any, where: str) -> Any:
    """Return an object as a dataclass: every key must be a field, and every field without a default must have a key."""
    if not isinstance(value, dict):
        raise _wrong(value, "an object", where)
    hints, fields = _described(form)
    if unknown := next((key for key in value if key not in fields), None):
        raise ValueError(f"{_under(where, unknown)}: no such key is known")
    if missing := next((name for name, needed in fields.items() if needed and name not in value), None):
        raise ValueError(f"{_under(where, missing)}: is missing")
    return form(**{key: checked(v, hints[key], _under(where, key)) for key, v in value.items()})


@functools.cache
def _described(form: Any) -> tuple[dict[str, Any], dict[str, bool]]:
    """Return field → form, and field → whether it is required."""
    none = dataclasses.MISSING
    fields = {f.name: f.default is none and f.default_factory is none for f in dataclasses.fields(form) if f.init}
    return typing.get_type_hints(form), fields


def _check_depth(value: Any, where: str) -> None:
    """Refuse values nested so deeply that a recursive function might overflow the stack."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"{where or 'it'}: objects and lists are nested more than {DEEPEST} deep")
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [item for items in inner for item in items if isinstance(item, dict | list)]


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")


def _wrong(value: Any, wanted: str, where: str) -> ValueError:
    shown = json.dumps(value, default=str)[:40] if not isinstance(value, dict | list) else f"a {type(value).__name__}"
    return ValueError(f"{where or 'it'}: must be {wanted}, not {shown}")


def _under(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key[:80]
