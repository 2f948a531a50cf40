"""Building promptmill: with the compiled kernels where there is a C compiler, without them where there is none."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.engine import native

pytest.importorskip("hatchling", reason="hatchling is not installed; it is among the `dev` requirements")

ROOT = Path(__file__).parents[1]
NATIVE = Path("pipeline/engine/native")
LEVELS = (
    ["v3", "v3-vnni", "v4", "v4-vnni", "v4-bf16", "v4-amx"]
    if platform.machine() in ("x86_64", "AMD64")
    else [*native.LEVELS.get(platform.machine(), ["generic"])]
)
LIBRARIES = {str(NATIVE / f"_native-{level}.so") for level in LEVELS}
COMPILER = shutil.which(os.environ.get("CC") or "cc")
QUICK = """#!/bin/sh
case "$*" in
*-march=x86-64-v4*|*-mavxvnni*) for word; do shift; case "$word" in *.c) word=$EMPTY;; esac; set -- "$@" "$word"; done;;
esac
exec $COMPILER "$@" -O0
"""
"""The compiler without optimisation, and for all levels but the lowest of sources with nothing in them but one name: what is
tested here is what lies where. The environment's own compilation has been of all sources for all levels."""
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C compiler here")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the build reads."""
    folder = tmp_path / "project"
    for room in ("jobs", "conf", "pipeline"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    return folder


def build(project: Path, target: str = "wheel", **environment: str) -> tuple[Path, str]:
    """Build a distribution → (its file, what was said)."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target], cwd=project, text=True, check=False,
        env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    (made,) = (project / "dist").glob("*.whl" if target == "wheel" else "*.tar.gz")
    return made, done.stdout


def quick(folder: Path) -> dict[str, str]:
    """What to set for a build in a second or two."""
    compiler, empty = folder / "quick-cc", folder / "empty.c"
    compiler.write_text(QUICK)
    compiler.chmod(0o755)
    empty.write_text("__attribute__((weak)) int block_attention(void) { return 0; }\n")
    return {"CC": str(compiler), "EMPTY": str(empty), "COMPILER": os.environ.get("CC") or "cc"}


def tags(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/WHEEL")]
        return archive.read(name).decode().splitlines()


@needs_compiler
def test_a_wheel_has_the_library_and_the_platforms_tag(project: Path, tmp_path: Path) -> None:
    wheel, _ = build(project, **quick(tmp_path))
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-py3-none-{platform}.whl")
    assert {"Root-Is-Purelib: false", f"Tag: py3-none-{platform}"} <= {*tags(wheel)}
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert {*names} >= LIBRARIES and "hatch_build.py" not in names
        archive.extractall(tmp_path)
    # its OpenMP comes from torch, or there would be two of them in a process
    import torch

    assert torch.get_num_threads() > 0
    runtime = native._openmp()
    if runtime is not None:
        ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
    for file in LIBRARIES:
        assert ctypes.CDLL(str(tmp_path / file)).block_attention
        needed = subprocess.run(["ldd", str(tmp_path / file)], capture_output=True, text=True, check=False).stdout
        assert "gomp" not in needed and "iomp" not in needed


@pytest.mark.slow
@needs_compiler
def test_a_build_replaces_an_old_library_and_leaves_nothing_else(project: Path, tmp_path: Path) -> None:
    one = project / min(LIBRARIES)
    one.write_bytes(b"old")
    (project / NATIVE / "_native.so").write_bytes(b"of an older version")
    with one.open("rb") as mapped:
        build(project, **quick(tmp_path))
        assert mapped.read() == b"old", "a new file: a running process may have the old one mapped"
    assert all((project / file).read_bytes()[:4] == b"\x7fELF" for file in LIBRARIES)
    sources = {"src", "include", *(p.name for p in (ROOT / NATIVE).glob("*.py"))}
    assert {p.name for p in (project / NATIVE).iterdir()} == {*sources, *(Path(file).name for file in LIBRARIES)}


@pytest.mark.parametrize("compiler", ["false", "/no/such/compiler -x", "sh -c 'echo no OpenMP >&2; exit 1'"])
def test_without_a_compiler_it_is_told_and_the_wheel_is_pure(project: Path, compiler: str) -> None:
    for file in LIBRARIES:
        (project / file).write_bytes(b"of another system")
    wheel, said = build(project, CC=compiler)
    assert all(
        f"the kernels of level {level} were not compiled, and a lower level or torch will" in said for level in LEVELS
    )
    assert ("no OpenMP" in said) == ("OpenMP" in compiler)
    assert wheel.name.endswith("-py3-none-any.whl") and "Root-Is-Purelib: true" in tags(wheel)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert not LIBRARIES & {*names} and "pipeline/engine/native/src/attention.c" in names
    assert not any((project / file).exists() for file in LIBRARIES)


@needs_compiler
def test_a_source_distribution_has_the_sources_and_no_library(project: Path) -> None:
    mine = project / min(LIBRARIES)
    mine.write_bytes(b"mine")
    made, _ = build(project, "sdist")
    with tarfile.open(made) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / NATIVE).glob("*/*.[ch]")}
    assert {"hatch_build.py", "pyproject.toml", *sources} <= names
    assert not LIBRARIES & names
    assert mine.read_bytes() == b"mine"
