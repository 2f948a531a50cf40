"""What the results and times of an engine depend on besides the model: the processor, the libraries' limits, the code."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

_CAPS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
"""Variables that keep torch and its libraries from using all instructions of the processor."""
_ONE_CORE = ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags")
_OTHER_CORE = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features")
"""What /proc/cpuinfo tells of a core of x86, and of ARM."""


def about_processor() -> list[str]:
    """Return what distinguishes this processor from others; an empty list where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    return [facts.get(name, "") for name in (*_ONE_CORE, *_OTHER_CORE)]


def caps() -> dict[str, str | None]:
    """Return the variables that limit torch's libraries."""
    return {name: os.environ.get(name) for name in _CAPS}


@functools.cache
def digest_of_code() -> str:
    """Return a digest of the engine's own code, the sources of the compiled kernels included."""
    digest, folder = hashlib.sha256(), Path(__file__).parent
    for file in sorted(file for kind in ("*.py", "*.c", "*.h") for file in folder.rglob(kind)):
        digest.update(file.read_bytes())
    return digest.hexdigest()
