"""Reads what the system says about this machine: its processor, and the cores and memory that this process may use."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CPUINFO = Path("/proc/cpuinfo")
_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_MEMINFO, _OVERCOMMIT = Path("/proc/meminfo"), Path("/proc/sys/vm/overcommit_memory")
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
    """Return the number of processor cores that this process may use: a part of a core counts as one.

    More threads than its cgroups give cores would wait for each other while the system holds some of them back.
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = quota()
    return there if limit is None else min(there, max(1, math.ceil(limit)))


def quota() -> float | None:
    """Return the cores' worth of time that its cgroups let this process use; None: no limit, or unknown."""
    return min((limit for folder in _cgroups("cpu") if (limit := _cores_of(folder)) is not None), default=None)


def available_bytes() -> int | None:
    """Return the bytes that this process may still allocate; None: unknown.

    It is the least of what the system has left, what its cgroups leave, and what `ulimit -v` leaves.
    """
    known = [left for folder in _cgroups("memory") if (left := _left_of(folder)) is not None]
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most != resource.RLIM_INFINITY:
        known.append(max(0, most - mapped_bytes()))
    return min([*known, *_left_by_system()], default=None)


def _left_by_system() -> Iterator[int]:
    """Yield the bytes that the system has left and, where it promises no more than it has, those not yet promised."""
    try:
        lines = (line.split() for line in _MEMINFO.read_text().splitlines())
        facts = {line[0]: int(line[1]) * 1024 for line in lines if len(line) > 1}
        strict = _OVERCOMMIT.exists() and _OVERCOMMIT.read_text().strip() == "2"
    except (OSError, ValueError):
        facts, strict = {}, False
    if "MemAvailable:" in facts:
        yield facts["MemAvailable:"]
    if strict and {"CommitLimit:", "Committed_AS:"} <= facts.keys():
        yield max(0, facts["CommitLimit:"] - facts["Committed_AS:"])


def _cgroups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and of those around it, which limit it too; not all of them need exist.

    A container may see its own cgroup at the top, although the path that the system tells has more parts.
    """
    try:
        lines = [line.split(":", 2) for line in _OWN_CGROUPS.read_text().splitlines()]
    except OSError:
        lines = []
    places = {"": "/", controller: "/"}  # version 2 has one tree for all controllers, version 1 one for each
    places |= {name: place for _, names, place in lines for name in names.split(",") if name in places}
    for name, place in places.items():
        path = PurePosixPath(place.lstrip("/"))
        if ".." not in path.parts:  # else the container does not see it
            yield from (_CGROUPS / name / around for around in (path, *path.parents))
        else:
            yield _CGROUPS / name


def _cores_of(folder: Path) -> float | None:
    """Return a cgroup's own limit of processor time, in cores."""
    try:
        if (folder / "cpu.max").exists():
            most, _, period = (folder / "cpu.max").read_text().strip().partition(" ")
        else:
            most, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if most in ("max", "-1") else int(most) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _left_of(folder: Path) -> int | None:
    """Return the bytes that a cgroup's own limit leaves; None: no limit, or unknown.

    Cached files do not count as used, because the system drops them when memory is needed.
    """
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        try:
            most = (folder / limit).read_text().strip()
            if most == "max":
                return None
            return max(0, int(most) - int((folder / used).read_text()) + _cached_by(folder))
        except (OSError, ValueError):
            continue
    return None


def _cached_by(folder: Path) -> int:
    """Return the bytes of cached files that a cgroup is charged for, with those of the cgroups within it."""
    try:
        lines = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        facts = {name: int(value) for name, value in lines}
        # in version 1, the names without `total_` leave out the cgroups within it
        return sum(facts.get(f"total_{name}", facts.get(name, 0)) for name in ("inactive_file", "active_file"))
    except (OSError, ValueError):
        return 0


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


def mapped_bytes() -> int:
    """Return the address space that this process has taken; 0: unknown."""
    return _status("VmSize")


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
