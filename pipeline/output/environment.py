"""What the output was made with: versions and the machine.

It does not know what the engine chose (dtype, threads, kernels); the caller adds that.
"""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

from pipeline import __version__

PACKAGES = ("torch", "transformers", "pyarrow", "ray")


def environment() -> dict[str, str | None]:
    """Return name → version or description; null for a package that is not installed. Imports none of them."""
    versions = {package: _version(package) for package in PACKAGES}
    return {
        "promptmill": __version__,
        "python": platform.python_version(),
        **versions,
        "processor": _processor(),
        "machine": platform.machine(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """The processor's name as Linux gives it, else what the platform says; null when neither says anything."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == "model name"]
    return next(iter(names), "") or platform.processor() or None
