"""What is recorded of the machine beside the results."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "sve")
"""Instructions that matrix products profit from."""
CAPS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
"""Variables that hold a library to fewer instructions than the processor has; README.md says which engines heed which."""


def describe() -> dict[str, Any]:
    """Processor, its instructions for products, cores that this process may use, memory, system, Python."""
    processor = _entries(Path("/proc/cpuinfo"))
    flags = (processor.get("flags") or processor.get("Features") or "").split()
    memory = _entries(Path("/proc/meminfo")).get("MemTotal", "0 kB")
    return {
        "processor": processor.get("model name") or platform.processor() or platform.machine(),
        "instructions": [flag for flag in FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(int(memory.split()[0]) / 2**20, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "caps": {name: os.environ[name] for name in CAPS if name in os.environ},
    }


def _entries(file: Path) -> dict[str, str]:
    """Name → value of a file of `name: value` lines, the first of each name; empty where there is none."""
    entries: dict[str, str] = {}
    try:
        text = file.read_text()
    except OSError:
        return entries
    for line in text.splitlines():
        name, _, value = line.partition(":")
        entries.setdefault(name.strip(), value.strip())
    return entries
