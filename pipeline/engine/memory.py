"""How many sequences fit: the memory there is, less what the model and a step need.

It does not know models; it is told bytes.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ModelRefused

_CGROUP_V2 = Path("/sys/fs/cgroup")
_MARGIN = 0.8
"""Share of the memory that may be planned: the rest is for the process, Arrow and the system."""


def available_bytes() -> int | None:
    """Memory that this process may still take: the system's, or its control group's if that is less. Null: unknown."""
    known = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        known += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        pass
    try:
        limit = (_CGROUP_V2 / "memory.max").read_text().strip()
        if limit != "max":
            known.append(int(limit) - int((_CGROUP_V2 / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return min(known, default=None)


def fitting_slots(wanted: int, slot_bytes: int, step_bytes: int, available: int | None) -> int:
    """Return how many of `wanted` slots the available bytes hold, with `step_bytes` set aside for a step's tensors.

    Raises:
        ModelRefused: If not even one sequence fits.
    """
    if available is None:
        return wanted
    fit = int((available * _MARGIN - step_bytes) // slot_bytes)
    if fit < 1:
        gib = 2**30
        raise ModelRefused(
            f"engine: one sequence needs {slot_bytes / gib:.2f} GiB of KV cache and {step_bytes / gib:.2f} GiB for a step, and "
            f"{available / gib:.2f} GiB are free; lower engine.max_model_len or cluster.replicas, or take a smaller model"
        )
    return min(wanted, fit)
