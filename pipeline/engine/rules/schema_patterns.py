"""Refuses JSON Schemas that llguidance compiles but cannot follow: with a pattern that matches a declared property."""

from __future__ import annotations

import re
from typing import Any


def check_patterns(schema: Any) -> None:
    """Check that no pattern of `patternProperties` matches the name of a property that is declared with it.

    Such a property has to satisfy both, and the library then allows texts that cannot be completed (llguidance issue 265).

    Raises:
        ValueError: If one does; the message names both.
    """
    pending = [schema]
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending += part
        if not isinstance(part, dict):
            continue
        pending += part.values()
        names, patterns = part.get("properties"), part.get("patternProperties")
        if isinstance(names, dict) and isinstance(patterns, dict):
            for pattern in patterns:
                name = next((n for n in names if _matches(pattern, n)), None)
                if name is not None:
                    raise ValueError(
                        f"json_schema: the pattern {pattern!r} of patternProperties matches the declared property {name!r}, "
                        "which llguidance cannot follow; leave that name out of the pattern"
                    )


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except (re.error, RecursionError, OverflowError):
        return False  # another dialect; llguidance itself reports patterns that it cannot parse
