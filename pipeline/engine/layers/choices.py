"""Prints, as JSON, which kernels the engine would choose on this machine: a separate program, as loading them may crash.

It asks with the layers of gpt2-large, the default model, by the code that loads models.
"""

from __future__ import annotations

import json
import logging

import torch

from pipeline.engine import native
from pipeline.engine.layers.attention import choose
from pipeline.engine.layers.linear import candidates, choose_kernel
from pipeline.engine.layers.verdicts import here

HEADS, HEAD_DIM = 20, 64
WIDTH = HEADS * HEAD_DIM
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.float32}


def choices() -> dict[str, object]:
    """Return what this machine has and what would be used."""
    cpu = torch.device("cpu")
    products, exact = {}, {}
    verdicts = here()
    for name, dtype in _TYPES.items():
        weight = torch.randn(WIDTH, WIDTH, dtype=dtype, generator=torch.Generator().manual_seed(0))
        products[name], exact[name] = choose_kernel(weight, None, candidates(dtype, cpu, int8=name == "int8"), verdicts)
    verdicts.keep()
    attention, rows_apart = choose(HEADS, HEADS, HEAD_DIM, torch.float32, torch.float32, cpu)
    return {
        "torch": torch.__version__, "threads": torch.get_num_threads(), "capability": torch.backends.cpu.get_cpu_capability(),
        "level": native.level(), "levels": native.levels(), "built": native.built(), "products": products, "exact": exact,
        "attention": attention, "attention_exact": rows_apart, "cuda": torch.version.cuda, "gpus": _gpus(),
    }  # fmt: skip


def _gpus() -> list[str]:
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    print(json.dumps(choices()))
