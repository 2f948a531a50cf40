"""What a check found: a line with its state, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"
    FIX = "must be fixed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Attributes:
        about: What was looked at.
        state: How it is.
        text: What was found.
        do: What to do; empty if nothing is to be done.
    """

    about: str
    state: State
    text: str
    do: str = ""


def ok(about: str, text: str) -> Finding:
    """Return a finding that is as it should be."""
    return Finding(about, State.OK, text)


def warning(about: str, text: str, do: str) -> Finding:
    """Return a finding that works, and might be better."""
    return Finding(about, State.WARNING, text, do)


def to_fix(about: str, text: str, do: str) -> Finding:
    """Return a finding that keeps jobs from running."""
    return Finding(about, State.FIX, text, do)
