"""Tells this machine and its processes from others, so that what a dead process left behind can be known as such."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
from pathlib import Path

_PROC = Path("/proc")
_START_TIME = 19
"""Place of the start time in `/proc/PID/stat`, counted after the command's name."""


@functools.cache
def machine() -> str:
    """Sixteen hex digits that this boot of this machine has, and of its containers only those that share their processes."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append((_PROC / "sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(str((_PROC / "self/ns/pid").readlink()))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def start_time(pid: int) -> str | None:
    """When a process of this machine started, in a unit of the kernel's own; null if none of that number runs."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()  # the command's name may have blanks and brackets in it
    return None if fields[0] in (b"Z", b"X") else fields[_START_TIME].decode()


def me() -> str:
    """A name for this process that no other ever has: machine, number, start."""
    return f"{machine()}-{os.getpid()}-{start_time(os.getpid()) or 0}"


def is_gone(name: str) -> bool:
    """Whether the process that `me` named was of this machine, and is there no more. False where that cannot be known."""
    where, _, rest = name.partition("-")
    pid, _, started = rest.partition("-")
    if where != machine() or not pid.isdigit() or not _PROC.joinpath("self").exists():
        return False
    return start_time(int(pid)) != started
