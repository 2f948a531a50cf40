"""The engine's kernels on this machine, and GPUs: what the engine itself would choose, asked in a separate process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.run.doctor.child import Children, Failed
from pipeline.run.doctor.finding import Finding, ok, to_fix, warning

MODULE = "pipeline.engine.layers.choices"
SECONDS = 240.0
_BUILD = (
    "install promptmill again where a C compiler with OpenMP is (docs/how-to/install.md); until then torch computes"
)
_NVIDIA = Path("/proc/driver/nvidia/version")


def check_engine(children: Children) -> Iterator[Finding]:
    """Yield findings about torch, kernels, products, attention and GPUs."""
    try:
        found: Mapping[str, Any] = children.ask(MODULE, SECONDS)
    except Failed as error:
        do = "install a torch for this processor (docs/how-to/install.md#which-build-of-torch)"
        yield to_fix("torch", f"cannot be used: {error}", do)
        return
    yield ok("torch", f"{found['torch']}, {found['capability']}, {found['threads']} threads")
    yield _kernels(found)
    yield _products(found)
    yield _attention(found)
    yield _gpu(found)


def _kernels(found: Mapping[str, Any]) -> Finding:
    level, levels, built = found["level"], found["levels"], found["built"]
    if not levels:
        return ok("kernels", "none are for this processor: torch computes")
    if level == "none":
        why = "their library cannot be loaded" if built else "not compiled"
        return warning("kernels", f"{why}; this processor can run {', '.join(levels)}", _BUILD)
    if level != levels[0]:
        return warning("kernels", f"compiled for {level}; this processor can run {levels[0]}", _BUILD)
    return ok("kernels", f"compiled for {level}, the best that this processor can run")


def _products(found: Mapping[str, Any]) -> Finding:
    chosen = ", ".join(f"{dtype} {kernel}" for dtype, kernel in found["products"].items())
    if all(found["exact"].values()):
        return ok("products", chosen)
    inexact = [dtype for dtype, exact in found["exact"].items() if not exact]
    return warning(
        "products", f"{chosen}; in {', '.join(inexact)} a row's bits may depend on its batch",
        "use one of the other types, or expect other last bits where the batch differs (docs/reference/guarantees.md)",
    )  # fmt: skip


def _attention(found: Mapping[str, Any]) -> Finding:
    if found["attention_exact"]:
        return ok("attention", found["attention"])
    return warning(
        "attention", f"{found['attention']}: a row's bits may depend on its batch",
        "expect other last bits where the batch differs (docs/reference/guarantees.md)",
    )  # fmt: skip


def _gpu(found: Mapping[str, Any]) -> Finding:
    if found["gpus"]:
        return ok("gpu", f"{', '.join(found['gpus'])}, CUDA {found['cuda']}: cluster.gpus_per_replica=1 uses one")
    if not _NVIDIA.exists():
        return ok("gpu", "none, and none is needed")
    why = "torch is built without CUDA" if found["cuda"] is None else f"torch's CUDA {found['cuda']} does not see it"
    return warning(
        "gpu", f"this machine has an NVIDIA driver, and {why}",
        "install a build of torch for it (docs/how-to/install.md#which-build-of-torch), or leave it",
    )  # fmt: skip
