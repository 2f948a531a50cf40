"""The pinned versions can be installed with each supported Python, also with an early release, as a distribution may have."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]


def test_each_pin_takes_the_first_release_of_every_supported_python() -> None:
    supported = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    pythons = [f"3.{minor}.0" for minor in range(30) if supported.contains(f"3.{minor}.0")]
    assert len(pythons) >= 3
    refused, seen = [], 0
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        try:
            found = metadata(name)
        except (PackageNotFoundError, ValueError):  # a comment, or for another kind of machine
            continue
        if found["Version"].partition("+")[0] != version.partition(" ")[0]:
            continue
        seen += 1
        takes = SpecifierSet(found["Requires-Python"] or "")
        refused += [f"{line} refuses Python {python}" for python in pythons if not takes.contains(python)]
    if seen < 50:
        pytest.skip(f"only {seen} of the pinned versions are installed")
    assert refused == []
