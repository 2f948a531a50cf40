"""Keeps small files in the user's cache folder, and says what of a machine they depend on.

The files only save time: if one is missing, or cannot be read or written, what it holds is found again, and that is no error.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

VARIABLE = "PROMPTMILL_CACHE"
"""Names another folder for the files; empty: nothing is remembered."""
_CAPS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
"""Variables by which torch and its libraries are told to use less than the processor has."""
_ONE_CORE = ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags")
_OTHER_CORE = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features")
"""What /proc/cpuinfo tells of a core of x86, and of ARM."""


def cache_folder() -> Path | None:
    """VARIABLE's folder, or ours in the user's cache. None: nothing is kept."""
    folder = os.environ.get(VARIABLE)
    if folder is not None:
        return Path(folder) if folder else None
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # as its specification wants it, a relative one is as none
        return (base if base.is_absolute() else Path.home() / ".cache") / "promptmill"
    except RuntimeError:  # no home
        return None


def read_kept(file: Path, most_bytes: int) -> dict[str, Any]:
    """Return a file's JSON object; nothing where it cannot be had, is larger, is none of ours, or others may write it."""
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            facts = os.fstat(opened.fileno())
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
                return {}
            data = opened.read(most_bytes + 1)
        found = json.loads(data) if len(data) <= most_bytes else None
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def put_kept(file: Path, text: str) -> None:
    """Put a file in place whole.

    Raises:
        OSError: If that is not possible.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "w") as opened:
            opened.write(text)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def about_processor() -> list[str]:
    """What tells this processor from others; an empty list where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    return [facts.get(name, "") for name in (*_ONE_CORE, *_OTHER_CORE)]


def caps() -> dict[str, str | None]:
    """The variables that hold torch's libraries to fewer instructions."""
    return {name: os.environ.get(name) for name in _CAPS}


@functools.cache
def digest_of_code() -> str:
    """A digest of the engine's own code, the compiled kernels' sources included."""
    digest, folder = hashlib.sha256(), Path(__file__).parent
    for file in sorted(file for kind in ("*.py", "*.c", "*.h") for file in folder.rglob(kind)):
        digest.update(file.read_bytes())
    return digest.hexdigest()
