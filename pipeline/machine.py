"""Reads what the system says about this machine: its processor, and the cores and memory that this process may use."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_CGROUP_V2 = Path("/sys/fs/cgroup")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Options of glibc's `mallopt`."""


def cpuinfo() -> dict[str, str]:
    """Return what Linux says about the first processor, by name; an empty dictionary on other systems."""
    try:
        first = _CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return {}
    lines = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


@functools.cache
def processor() -> tuple[str, frozenset[str]]:
    """Return (vendor, flags) as Linux reports them, e.g. `GenuineIntel`; on ARM the features; empty on other systems."""
    about = cpuinfo()
    return about.get("vendor_id", ""), frozenset((about.get("flags") or about.get("Features", "")).split())


@functools.cache
def compute_capability() -> tuple[int, int] | None:
    """Return the least compute capability of this machine's GPUs, such as (8, 0), as NVIDIA's driver tells; None: unknown."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
        found = [(int(major), int(minor)) for major, _, minor in (line.partition(".") for line in told.split())]
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return min(found, default=None)


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota() -> float | None:
    """Return the cores' worth of time that the cgroup lets this process use; None: no limit, or unknown."""
    try:
        most, _, period = (_CGROUP_V2 / "cpu.max").read_text().strip().partition(" ")
        return None if most == "max" else int(most) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def available_bytes() -> int | None:
    """Return the bytes that this process may still allocate: the system's or the cgroup's, whichever is less. None: unknown."""
    known = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        known += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        pass
    try:
        limit = (_CGROUP_V2 / "memory.max").read_text().strip()
        if limit != "max":
            known.append(int(limit) - int((_CGROUP_V2 / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return min(known, default=None)


def huge_page_bytes() -> int:
    """Return the size of a page of memory for which huge pages were asked; 0 where the system has none."""
    folder = Path("/sys/kernel/mm/transparent_hugepage")
    try:
        allowed, size = (folder / "enabled").read_text(), int((folder / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return 0
    return 0 if "[never]" in allowed else size


def resident_bytes() -> int:
    """Return the memory that this process holds, with the files that it has mapped; 0: unknown."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the most memory that this process has held since it began, or since `reset_peak`; 0: unknown."""
    return _status("VmHWM")


def reset_peak() -> bool:
    """Let `peak_bytes` begin anew; return whether the system can do that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return peak_bytes() > 0


def return_memory() -> None:
    """Have the C library return to the system what it keeps of freed memory, where it can: hundreds of MB after a model."""
    try:
        trim = ctypes.CDLL(None).malloc_trim  # of glibc
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return
    trim(0)


def keep_memory() -> None:
    """Have glibc keep freed blocks below 32 MiB, up to 128 MiB together, where it would return them to the system.

    The tensors of a step are freed and allocated again in the next one. The system clears every page that it gives, which takes
    up to a twentieth of the step.
    """
    try:
        option = ctypes.CDLL(None).mallopt  # of glibc
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return
    option(_MMAP_THRESHOLD, 32 * 2**20)  # larger blocks have memory of their own, which is returned at once
    option(_TRIM_THRESHOLD, 128 * 2**20)


def waited_seconds() -> float:
    """Return how long the threads of this process have waited for a core, together; 0 also if it is not told.

    Seconds of threads that have ended are lost.
    """
    found = 0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        try:
            found += int(file.read_text().split()[1])
        except (OSError, ValueError, IndexError):  # the thread has ended
            continue
    return found / 1e9


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)
