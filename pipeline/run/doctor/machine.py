"""The machine: processor, memory, and room on the disks that a job writes to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.machine import available_bytes, cores, quota
from pipeline.output.record.environment import environment
from pipeline.run.doctor.finding import Finding, ok, to_fix, warning

GIB = 2**30
LITTLE_MEMORY = 4 * GIB
"""The weights of the default model, gpt2-large, take 3.1 GiB in float32."""
LITTLE_DISK, NO_DISK = GIB, 100 * 2**20
SHARED = 128 * 2**20
"""Ray's object store takes 80 MiB of /dev/shm; Docker gives a container 64 MiB unless told otherwise."""
_SHM = Path("/dev/shm")


def check_processor() -> Iterator[Finding]:
    """Yield a finding about the processor and its cores."""
    facts = environment()
    name = f"{facts['processor'] or facts['machine']}, {cores()} cores"
    sets = facts["instruction_sets"]
    limit = quota()
    if limit is not None and limit < cores():
        yield warning(
            "processor", f"{name}, of which the container may use {limit:g}",
            f"set cluster.cpus_per_replica={max(1, int(limit))} and cluster.replicas=1, or raise the container's limit",
        )  # fmt: skip
    else:
        yield ok("processor", name + (f": {sets}" if sets else ""))


def check_memory() -> Iterator[Finding]:
    """Yield a finding about the memory that a job may take."""
    free = available_bytes()
    if free is None:
        yield warning("memory", "free memory is unknown", "watch a job's memory yourself")
    elif free < LITTLE_MEMORY:
        yield warning(
            "memory",
            f"{_gib(free)} free",
            "take a smaller model than gpt2-large, or model.quantization=int8; or free some",
        )
    else:
        yield ok("memory", f"{_gib(free)} free")


def check_disks(output: str | None) -> Iterator[Finding]:
    """Yield a finding about each disk that is written to.

    Args:
        output: The output's folder, which need not be there; None: the current folder.
    """
    if output is None or "://" not in output:
        yield _disk("disk", nearest(Path(output or ".")), "free some, or choose another output.path")
    yield _disk("temporary", Path(tempfile.gettempdir()), "free some, or name another folder with TMPDIR")
    if _SHM.is_dir():
        free = shutil.disk_usage(_SHM).free
        if free < SHARED:
            do = "give the container more (docker run --shm-size=256m), or use cluster=inline"
            yield warning("/dev/shm", f"{free / 2**20:.0f} MiB free, and Ray needs 80", do)
        else:
            yield ok("/dev/shm", f"{_gib(free)} free")
    else:
        yield warning("/dev/shm", "is not there, and Ray keeps its objects in it", "mount it, or use cluster=inline")


def nearest(path: Path) -> Path:
    """Return the folder that is there, of a path and those above it."""
    path = path.expanduser().absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _disk(about: str, folder: Path, do: str) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{_gib(free)} free in {folder}"
    if free < NO_DISK:
        return to_fix(about, text, do)
    return warning(about, text, do) if free < LITTLE_DISK else ok(about, text)


def _gib(size: int) -> str:
    return f"{size / GIB:,.1f} GiB"
