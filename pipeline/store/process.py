"""Names this machine and its processes uniquely, so that files of dead processes can be recognised."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
from pathlib import Path

_PROC = Path("/proc")
_START_TIME = 19
"""Index of the start time in `/proc/PID/stat`, counted after the command's name."""


@functools.cache
def machine() -> str:
    """Return sixteen hex digits, unique to this boot of this machine and to the containers that share its processes."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append((_PROC / "sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(str((_PROC / "self/ns/pid").readlink()))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def start_time(pid: int) -> str | None:
    """Return when a process of this machine started, in the kernel's clock ticks; None if no such process runs."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()  # the command's name may contain spaces and parentheses
    return None if fields[0] in (b"Z", b"X") else fields[_START_TIME].decode()


def me() -> str:
    """Return a unique name for this process: machine, pid, start time."""
    return f"{machine()}-{os.getpid()}-{start_time(os.getpid()) or 0}"


def is_gone(name: str) -> bool:
    """Whether the process that `me` named was on this machine and has ended. False if that is unknown."""
    where, _, rest = name.partition("-")
    pid, _, started = rest.partition("-")
    if where != machine() or not pid.isdigit() or not _PROC.joinpath("self").exists():
        return False
    return start_time(int(pid)) != started
