"""Lists the keys of a job's configuration from its dataclasses: types, defaults, help, and similar names."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

MAPPINGS = ("sampling.json_schema", "sampling.logit_bias", "source.chat_template_kwargs")
"""Keys that take a mapping, which may be written as JSON."""
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True, slots=True)
class Key:
    """One option: its dotted name, its type, its default, and what it means in one line."""

    name: str
    type: Any
    default: Any
    help: str

    @property
    def required(self) -> bool:
        """Whether the user has to give it."""
        return bool(self.default == "???")

    @property
    def allowed(self) -> str:
        """The type as a phrase."""
        if self.type == dict[str, Any]:
            example = re.search(r"such as (\{[^;]+\})", self.help)
            return "a mapping of names to values" + (f", such as {example[1]}" if example else "")
        return _phrase(self.type)

    @property
    def textual(self) -> bool:
        """Whether its value is a text, or may be one."""
        return self.type in (str, Any) or (
            typing.get_origin(self.type) is not list and str in typing.get_args(self.type)
        )


@cache
def keys(schema: type) -> Mapping[str, Key]:
    """List the keys of a configuration dataclass, those of its sections included, in the order they are written."""
    found: dict[str, Key] = {}
    hints = typing.get_type_hints(schema)
    for field in _offered(schema):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            for key in keys(kind).values():
                name = f"{field.name}.{key.name}"
                found[name] = dataclasses.replace(key, name=name)
        else:
            made = field.default_factory
            default = field.default if made is dataclasses.MISSING else made()
            found[field.name] = Key(field.name, kind, default, field.metadata["help"])
    return types.MappingProxyType(found)


def sections(schema: type) -> dict[str, str]:
    """List the sections of a configuration dataclass, which are the groups that presets fill, each with its meaning."""
    hints = typing.get_type_hints(schema)
    fields = _offered(schema)
    return {f.name: f.metadata["help"] for f in fields if dataclasses.is_dataclass(hints[f.name])}


def _offered(schema: type) -> list[dataclasses.Field[Any]]:
    """Return the fields that are options: a job that shares another's configuration may fix some of them."""
    return [
        f for f in dataclasses.fields(schema) if not (f.metadata.get("omegaconf_ignore") or f.metadata.get("fixed"))
    ]


def fixed(schema: type) -> set[str]:
    """Return the keys that presets of another job may set, and this job does not look at."""
    hints = typing.get_type_hints(schema)
    inner = {f.name: hints[f.name] for f in _offered(schema) if dataclasses.is_dataclass(hints[f.name])}
    return {
        f"{name}.{f.name}" for name, kind in inner.items() for f in dataclasses.fields(kind) if f.metadata.get("fixed")
    }


def nearest(name: str, schema: type) -> str:
    """Return a phrase with the existing keys that are similar to an unknown one."""
    known, groups = keys(schema), sections(schema)
    section, _, leaf = name.rpartition(".")
    if section in known and typing.get_origin(known[section].type) is dict:
        return f"{section} takes one mapping: {section}={{{leaf}:…}}"

    def likeness(candidate: str) -> float:
        its_section, _, its_leaf = candidate.rpartition(".")
        by_leaf = difflib.SequenceMatcher(None, leaf, its_leaf).ratio()
        if section in groups:  # the section is right: its name must not count as similarity
            return by_leaf - 0.05 * (section != its_section)
        return max(by_leaf, difflib.SequenceMatcher(None, name, candidate).ratio())

    scores = {candidate: likeness(candidate) for candidate in [*known, *groups]}
    best = max(scores.values())
    if best > 0.7:
        return "did you mean " + " or ".join([c for c, score in scores.items() if score > best - 0.02][:3]) + "?"
    if section in groups:
        return f"{section} has " + ", ".join(k.rpartition(".")[2] for k in known if k.startswith(f"{section}."))
    return "there are " + ", ".join([*(f"{group}.…" for group in groups), *(k for k in known if "." not in k)])


def _phrase(kind: Any) -> str:
    """Put a type into words: `int | None` is "null or a whole number"."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return "null or " + " or ".join(_phrase(k) for k in typing.get_args(kind) if k is not type(None))
    if typing.get_origin(kind) is list:
        (item,) = typing.get_args(kind)
        return "a list of whole numbers, such as [1,2]" if item is int else "a list of texts, such as [a,b]"
    if typing.get_origin(kind) is dict:
        return "a mapping of token ids to numbers, such as {50256:-5}"
    if kind is Any:
        return "null or a mapping, or the JSON text of one"
    return _WORDS.get(kind, "a section")
