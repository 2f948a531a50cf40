"""Describes the software and the machine that make an output, and selects the facts that a row's bits depend on.

The caller adds the engine's choices: dtype, threads, kernels.
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
"""Facts that change no bit. All others count, as an unnecessary doubt is better than a false promise."""
_IN_THE_PLAN = {"model_commit", "model_licence", "weights_sha256", "tokenizer_sha256"}
"""Facts about the model, whose content is part of the plan."""
_NEEDS_THREADS = "fixed-rows"
"""The kernel whose sums are split by the number of threads."""


def environment() -> dict[str, str | None]:
    """Return name → version or description; None if it is not installed or unknown. Imports none of the packages.

    `processor` is the CPU's own name, which may say little ("AMD EPYC"); `processor_class` is its vendor, family and model,
    and `instruction_sets` lists those that affect arithmetic.
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
    """Return the facts about a machine and an engine that a row's bits depend on."""
    kernels = facts.get("linear_kernels")
    with_threads = isinstance(kernels, Mapping) and _NEEDS_THREADS in kernels
    left_out = {*_SPEED_ONLY, *_IN_THE_PLAN, *(() if with_threads else ("threads",))}
    return {name: value for name, value in facts.items() if name not in left_out}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor(about: Mapping[str, str]) -> str | None:
    """Return the CPU's name from Linux, else from the platform; None if neither has one."""
    return about.get("model name") or platform.processor() or None


def _processor_class(about: Mapping[str, str]) -> str | None:
    """Return vendor, family and model on x86; implementer, part and variant on ARM."""
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
