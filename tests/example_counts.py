"""Says how many examples a property is tried with: a third in `make test`, all in `make fuzz`."""

from __future__ import annotations

from hypothesis import settings


def examples(most: int) -> int:
    """Return `most` where new examples are tried, and a third of them where they are the same every time."""
    return max(3, most // 3) if settings().derandomize else most
