"""Seals card and report with a digest in their last line: a file without it, or changed since, is the user's own."""

from __future__ import annotations

import hashlib

from pipeline.errors import PlanRefused
from pipeline.output.card.card import CARD
from pipeline.store.base import Store
from pipeline.store.door import fetch

MOST_BYTES = 1 << 24
_HEAD, _TAIL = b"<!-- promptmill wrote this file; sha256 of what is above: ", b" -->\n"


def sealed(text: str | bytes) -> bytes:
    """Return the bytes of a file with its seal, a comment in Markdown and in HTML."""
    data = text.encode() if isinstance(text, str) else text
    return data + _HEAD + hashlib.sha256(data).hexdigest().encode() + _TAIL


def is_sealed(data: bytes) -> bool:
    """Whether these are the bytes of a sealed file that nobody has changed."""
    place = data.rfind(_HEAD)
    return place >= 0 and data[place:] == _HEAD + hashlib.sha256(data[:place]).hexdigest().encode() + _TAIL


def put_card(store: Store, card: str) -> str:
    """Write the card without replacing a file of the user's, and return its stored name: README.md if that is free or ours."""
    return put_sealed(store, CARD, card)


def put_sealed(store: Store, name: str, text: str | bytes) -> str:
    """Write a file without replacing one of the user's, and return its stored name: `name`, or that in `_job/`."""
    data = sealed(text)
    if store.put_if_absent(name, data):
        return name
    name = name if holds_sealed(store, name) else f"_job/{name}"
    store.put(name, data)
    return name


def holds_sealed(store: Store, name: str) -> bool:
    """Whether there is such a file with a seal, which nobody has changed."""
    try:
        return is_sealed(fetch(store, name, MOST_BYTES))
    except (FileNotFoundError, ValueError, PlanRefused):  # a dangling link, a folder, or far too large
        return False
