"""Small JSON files in the user's cache folder, which only save time: whoever reads one can do without it."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

VARIABLE = "PROMPTMILL_CACHE"
"""Names another folder for the files; empty: nothing is remembered."""
_MOST_BYTES = 1 << 20
"""A larger file was not written by promptmill."""


def cache_file(name: str) -> Path | None:
    """Return where a file is kept: in VARIABLE's folder, or in the user's cache. None: nowhere."""
    folder = os.environ.get(VARIABLE)
    if folder is not None:
        return Path(folder) / name if folder else None
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # the specification says to ignore a relative one
        return (base if base.is_absolute() else Path.home() / ".cache") / "promptmill" / name
    except RuntimeError:  # no home
        return None


def read_cache(file: Path) -> dict[str, Any]:
    """Return a file's entries; none if it cannot be read, is not ours, or if others may write it."""
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            facts = os.fstat(opened.fileno())
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
                return {}
            data = opened.read(_MOST_BYTES + 1)
        found = json.loads(data) if len(data) <= _MOST_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def replace_cache(file: Path, entries: dict[str, Any]) -> None:
    """Put a file in place whole.

    Raises:
        OSError: If that is not possible.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "w") as opened:
            json.dump(entries, opened, indent=0)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
