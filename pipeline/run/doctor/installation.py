"""Python, the packages that promptmill needs, and those of its extras: what is installed, and what its metadata asks for."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from pipeline import __version__
from pipeline.run.doctor.finding import Finding, ok, to_fix, warning

NAME = "promptmill"
_FOR_DEVELOPERS = {"dev", "quality", "data", "docs"}
AGAIN = "install promptmill again (docs/how-to/install.md)"


def check_installation() -> Iterator[Finding]:
    """Yield findings about Python, the packages and the extras."""
    try:
        metadata = importlib.metadata.metadata(NAME)
    except importlib.metadata.PackageNotFoundError:
        yield warning(
            NAME, f"{__version__}, run from its source without being installed: versions are not checked", AGAIN
        )
        return
    installed = importlib.metadata.version(NAME)
    if installed == __version__:
        yield ok(NAME, installed)
    else:
        yield warning(NAME, f"the code is {__version__}, installed is {installed}", AGAIN)
    yield _python("".join(metadata.get_all("Requires-Python") or ()))
    wanted = list(_requirements(importlib.metadata.requires(NAME) or ()))
    yield from _packages([r for r, extra in wanted if extra is None])
    extras = sorted(set(metadata.get_all("Provides-Extra") or ()) - _FOR_DEVELOPERS)
    there = [e for e in extras if all(_fault(r) is None for r, extra in wanted if extra == e)]
    missing = [e for e in extras if e not in there]
    yield ok("extras", f"{', '.join(there) or 'none'}" + (f"; not installed: {', '.join(missing)}" if missing else ""))


def _python(wanted: str) -> Finding:
    version = platform.python_version()
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return ok("python", version)
    return to_fix("python", f"{version}; promptmill needs {wanted}", "make an environment with such a Python")


def _requirements(lines: Sequence[str]) -> Iterator[tuple[Requirement, str | None]]:
    """Yield the packages asked for here, each with the extra that asks for it, or None."""
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        marker = requirement.marker
        if marker is None or marker.evaluate({"extra": ""}):
            yield requirement, None
            continue
        yield from (
            (requirement, extra)
            for extra in importlib.metadata.metadata(NAME).get_all("Provides-Extra") or ()
            if marker.evaluate({"extra": extra})
        )


def _packages(wanted: Sequence[Requirement]) -> Iterator[Finding]:
    """Yield a finding per package that is not as asked for, and one for all that are."""
    good = []
    for requirement in wanted:
        fault = _fault(requirement)
        if fault is None:
            good.append(f"{requirement.name} {importlib.metadata.version(requirement.name)}")
        else:
            asked = f"{requirement.name}{requirement.specifier}"
            yield to_fix("packages", fault, f"pip install '{asked}' in the environment of promptmill, or {AGAIN}")
    yield ok("packages", ", ".join(good) or "none")


def _fault(requirement: Requirement) -> str | None:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} is {version}; promptmill needs {requirement.specifier}"
