"""What the system tells of this machine."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path

import pytest

from pipeline import machine
from pipeline.machine import available_bytes, processor
from tests.small_runs import python


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu avx512_vnni\n\nprocessor\t: 1\nflags\t: fpu\n",
            ("AuthenticAMD", frozenset({"fpu", "avx512_vnni"})),
        ),
        ("processor\t: 0\nFeatures\t: fp asimd\n", ("", frozenset({"fp", "asimd"}))),
        (None, ("", frozenset())),
    ],
)
def test_what_linux_tells_of_the_processor(
    text: str | None, expected: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    assert processor.__wrapped__() == expected


def test_there_is_memory_here() -> None:
    found = available_bytes()
    assert found is None or found > 2**20


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all cgroups; what the system tells of this process's own is in the file `own` beside it."""
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_OWN_CGROUPS", tmp_path / "own")
    (tmp_path / "cgroup").mkdir()
    return tmp_path / "cgroup"


def put(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_a_control_groups_limit_counts(cgroups: Path) -> None:
    free = available_bytes()
    put(cgroups, memory__max="max", memory__current="1000")
    unlimited = available_bytes()
    assert (free is None) == (unlimited is None)
    put(cgroups, memory__max="5000")
    assert available_bytes() == 4000
    put(cgroups, memory__current="6000")  # it was lowered meanwhile
    assert available_bytes() == 0
    put(cgroups, memory__current="rubbish")
    assert available_bytes() != 4000


def test_what_may_still_be_promised_counts_where_no_more_is(cgroups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "MemTotal: 90 kB\nMemAvailable: 50 kB\nCommitLimit: 70 kB\nCommitted_AS: 40 kB\nHugePages_Total: 0\n"
    monkeypatch.setattr(machine, "_MEMINFO", cgroups.parent / "meminfo")
    monkeypatch.setattr(machine, "_OVERCOMMIT", cgroups.parent / "overcommit")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert available_bytes() is None, "the system tells nothing"
    (cgroups.parent / "meminfo").write_text(told)
    (cgroups.parent / "overcommit").write_text("0\n")
    assert available_bytes() == 50 * 1024
    (cgroups.parent / "overcommit").write_text("2\n")
    assert available_bytes() == 30 * 1024


LIMITED = """
import resource
from pipeline.machine import available_bytes, mapped_bytes
free, limit = available_bytes(), mapped_bytes() + (64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
left = available_bytes()
bytearray(left // 2)  # it can be had
assert left <= 64 << 20 and left <= free, (left, free)
"""


def test_a_limit_of_the_shell_counts() -> None:
    """Batch systems set `ulimit -v`; a cache that goes beyond would end the run."""
    done = python(LIMITED)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 8), ("50000", 1), ("200000", 2), ("250000", 3), ("1600000", 8)]
)
def test_no_more_cores_than_the_control_group_gives(
    cgroups: Path, limit: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `docker run --cpus=2` sets it on a machine of many."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    put(cgroups, cpu__max=f"{limit} 100000")
    assert machine.cores() == expected


def test_files_in_memory_are_free_memory(cgroups: Path) -> None:
    """A model that was just hashed is in the page cache, which the group is charged for."""
    put(cgroups, memory__max="5000", memory__current="4000")
    put(cgroups, memory__stat="anon 900\ninactive_file 2000\nactive_file 1000\nshmem 100")
    assert available_bytes() == 4000
    put(cgroups, memory__stat="rubbish")
    assert available_bytes() == 1000


@pytest.mark.parametrize("depth", ["", "batch", "batch/job_7", "batch/job_7/step_0"])
def test_a_limit_of_any_group_around_this_process_counts(cgroups: Path, depth: str) -> None:
    """As a batch system sets it, for a group that the process is deep within."""
    (cgroups.parent / "own").write_text("0::/batch/job_7/step_0\n")
    put(cgroups / "batch" / "job_7" / "step_0", memory__max="max", memory__current="100", cpu__max="max 100000")
    put(cgroups / depth, memory__max="5000", memory__current="1000", cpu__max="250000 100000")
    put(cgroups / "batch" / "another", memory__max="10", memory__current="1", cpu__max="1000 100000")
    assert (available_bytes(), machine.quota()) == (4000, 2.5)


@pytest.mark.parametrize(
    ("place", "mounted"), [("/docker/1f", "docker/1f"), ("/docker/1f", ""), ("/../..", ""), ("/", "")]
)
def test_limits_in_the_older_version_of_control_groups(cgroups: Path, place: str, mounted: str) -> None:
    """A container may see its own group at the top, though its path is that outside."""
    (cgroups.parent / "own").write_text(f"9:name=systemd:/\n4:memory:{place}\n2:cpu,cpuacct:{place}\n0::/\n")
    assert machine.quota() is None
    memory, cpu = (cgroups / name / mounted for name in ("memory", "cpu"))
    put(memory, memory__limit_in_bytes="5000", memory__usage_in_bytes="4500")
    put(memory, memory__stat="inactive_file 1\nactive_file 1\ntotal_inactive_file 300\ntotal_active_file 200")
    put(cpu, cpu__cfs_quota_us="150000", cpu__cfs_period_us="100000")
    assert (available_bytes(), machine.quota()) == (1000, 1.5)
    put(memory, memory__limit_in_bytes="9223372036854771712")
    put(cpu, cpu__cfs_quota_us="-1")
    assert available_bytes() != 1000 and machine.quota() is None


@pytest.mark.parametrize(
    ("told", "expected"), [("9.0\n8.9\n", (8, 9)), ("12.0\n", (12, 0)), ("", None), ("[N/A]\n", None)]
)
def test_the_least_of_what_nvidias_driver_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, expected: tuple[int, int] | None
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{told}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    machine.compute_capability.cache_clear()
    assert machine.compute_capability() == expected
    machine.compute_capability.cache_clear()


FAULTS = """
import resource, sys
from pipeline.machine import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
def step():
    blocks = [bytearray(20 * 2**20) for _ in range(3)]
    for block in blocks:
        block[::4096] = bytes(len(block) // 4096)
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the option is glibc's")
def test_memory_that_a_step_frees_is_there_for_the_next() -> None:
    pages = 3 * 20 * 2**20 // 4096
    kept, returned = (int(python(FAULTS, word).stdout) for word in ("keep", "return"))
    assert kept < pages < returned, "10 steps, of which each needs so many pages"
