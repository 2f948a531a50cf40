"""What the system tells of this machine."""

from __future__ import annotations

import platform
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


def test_a_control_groups_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP_V2", tmp_path)
    free = available_bytes()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    unlimited = available_bytes()
    assert (free is None) == (unlimited is None)
    (tmp_path / "memory.max").write_text("5000\n")
    assert available_bytes() == 4000
    (tmp_path / "memory.current").write_text("rubbish")
    assert available_bytes() != 4000


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
