"""What the system tells of the processor. It does not know what follows from it."""

from __future__ import annotations

import functools
from pathlib import Path


@functools.cache
def processor() -> tuple[str, frozenset[str]]:
    """(vendor: `GenuineIntel`, `AuthenticAMD`, …, flags; on ARM, features), as Linux tells them; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    return facts.get("vendor_id", ""), frozenset((facts.get("flags") or facts.get("Features", "")).split())
