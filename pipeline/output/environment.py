"""What the output was made with: versions and the machine, and what of it the bits of a row rest on.

It does not know what the engine chose (dtype, threads, kernels); the caller adds that.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

from pipeline import __version__
from pipeline.machine import cpuinfo

PACKAGES = ("torch", "transformers", "pyarrow", "ray")
_SPEED_ONLY = {"python", "pyarrow", "ray", "max_num_seqs", "kv_blocks", "replicas", "pid", "node"}
"""Facts that change no bit. What is not named here counts: a fact too many makes a doubt, one too few a false alarm."""
_NEEDS_THREADS = "fixed-rows"
"""The kernel whose sums are cut by the number of threads."""


def environment() -> dict[str, str | None]:
    """Return name → version or description; null for what is not installed or not known. Imports none of the packages.

    `processor` is the name that the processor gives itself, which may say little ("AMD EPYC"); `processor_class` is its
    vendor, family and model, and `instruction_sets` those that arithmetic makes use of.
    """
    versions = {package: _version(package) for package in PACKAGES}
    about = cpuinfo()
    return {
        "promptmill": __version__,
        "python": platform.python_version(),
        **versions,
        "processor": _processor(about),
        "processor_class": _processor_class(about),
        "instruction_sets": _instruction_sets(about),
        "machine": platform.machine(),
    }


def identity(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the facts about a machine and an engine that the bits of a row rest on."""
    kernels = facts.get("linear_kernels")
    with_threads = isinstance(kernels, Mapping) and _NEEDS_THREADS in kernels
    left_out = _SPEED_ONLY if with_threads else _SPEED_ONLY | {"threads"}
    return {name: value for name, value in facts.items() if name not in left_out}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor(about: Mapping[str, str]) -> str | None:
    """The processor's name as Linux gives it, else what the platform says; null when neither says anything."""
    return about.get("model name") or platform.processor() or None


def _processor_class(about: Mapping[str, str]) -> str | None:
    """Vendor, family and model on x86; implementer, part and variant on ARM."""
    for keys in (("vendor_id", "cpu family", "model"), ("CPU implementer", "CPU part", "CPU variant")):
        if all(key in about for key in keys):
            return "/".join(about[key] for key in keys)
    return None


def _instruction_sets(about: Mapping[str, str]) -> str | None:
    words = (about.get("flags") or about.get("Features") or "").split()
    return (
        " ".join(sorted(w for w in words if w.startswith(("avx", "amx", "fma", "asimd", "sve", "bf16", "i8mm"))))
        or None
    )
