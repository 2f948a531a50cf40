"""Seals the dataset card with a digest in its last line: a card without it, or changed since, is the user's own file."""

from __future__ import annotations

import hashlib

from pipeline.errors import PlanRefused
from pipeline.output.card.card import CARD
from pipeline.store.base import Store
from pipeline.store.door import fetch

BESIDE = f"_job/{CARD}"
"""The card's name if README.md is the user's own."""
MOST_BYTES = 1 << 24
_HEAD, _TAIL = b"<!-- promptmill wrote this file; sha256 of what is above: ", b" -->\n"


def sealed(card: str) -> bytes:
    """Return the bytes of a card with its seal."""
    data = card.encode()
    return data + _HEAD + hashlib.sha256(data).hexdigest().encode() + _TAIL


def is_sealed(data: bytes) -> bool:
    """Whether these are the bytes of a card that nobody has changed."""
    place = data.rfind(_HEAD)
    return place >= 0 and data[place:] == _HEAD + hashlib.sha256(data[:place]).hexdigest().encode() + _TAIL


def put_card(store: Store, card: str) -> str:
    """Write the card without replacing a file of the user's, and return its stored name: README.md if that is free or ours."""
    data = sealed(card)
    if store.put_if_absent(CARD, data):
        return CARD
    name = CARD if holds_card(store) else BESIDE
    store.put(name, data)
    return name


def holds_card(store: Store) -> bool:
    """Whether README.md is a card that nobody has changed."""
    try:
        return is_sealed(fetch(store, CARD, MOST_BYTES))
    except (FileNotFoundError, ValueError, PlanRefused):  # a dangling link, a folder, or far too large
        return False
