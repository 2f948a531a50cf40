"""Computes the id of a plan, a digest of everything that decides the output's bytes, and how two fingerprints differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.wording import plain

ABSENT = "absent"
_SHOWN = 60
"""Most characters of a value in a message."""


def digest(fingerprint: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hex, of the canonical JSON of `fingerprint` (sorted keys, no spaces)."""
    text = json.dumps(fingerprint, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, plain value) of a nested mapping, in order."""
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, Mapping) and inner:
            yield from flatten(inner, f"{name}.")
        else:
            yield name, inner


def changes(planned: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, planned, asked) per key that differs, in the order of the keys; a key that is not there is `ABSENT`."""
    before, after = dict(flatten(planned)), dict(flatten(asked))
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key, ABSENT), after.get(key, ABSENT)
        if old != new:
            yield key, old, new


def differences(planned: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return one line per key that differs, as `key: planned → asked`, in the order of the keys."""
    return [told(*change) for change in changes(planned, asked)]


def told(key: str, old: Any, new: Any) -> str:
    """Return the line for one change."""
    return f"{key}: {_shown(old)} → {_shown(new)}"


def _shown(value: Any) -> str:
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), _SHOWN)
