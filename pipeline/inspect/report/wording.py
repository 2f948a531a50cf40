"""Numbers as a report writes them."""

from __future__ import annotations


def percent(share: float) -> str:
    """Write a share: `62 %`, `0.13 %`, `0 %`; never 100 % of what is not all, nor 0 % of what is something."""
    if share <= 0:
        return "0 %"
    if share >= 1:
        return "100 %"
    value = 100 * share
    if value < 0.01:
        return "< 0.01 %"
    if value > 99.99:
        return "> 99.99 %"
    digits = 2 if value < 1 or value > 99 else 1 if value < 10 else 0
    return f"{value:.{digits}f} %"


def length(seconds: float | None) -> str:
    """Write a time: `0.8 s`, `42 s`, `12 min 05 s`, `3 h 04 min`, `2 d 03 h`."""
    if seconds is None:
        return "not known"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02} h"


def size(count: float) -> str:
    """Write bytes: `1.2 GB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
