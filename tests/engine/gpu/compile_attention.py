"""Compiles the attention kernels as gpt2-large wants them, for a GPU that need not be here; prints a JSON line for each.

Run by `test_gpu_attention_compile.py` in a separate process, where Triton does not interpret.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pipeline.engine.cache.block_pool import BLOCK
from pipeline.engine.gpu import attention_kernels, attention_options, cache_kernels
from pipeline.engine.gpu.attention import SPLIT

HEADS, DIM = 20, 64
GROUPED = [(71, 64), (4, 128), (7, 128), (16, 64), (3, 64)]
"""(query heads that share a key head, elements a head): Falcon 7B's, Llama 3's, Qwen 2.5's, and others."""
TYPES = [
    (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32), (torch.bfloat16, torch.int8), (torch.float32, torch.int8),
]  # fmt: skip
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int8: "*i8"}
PRODUCTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}
ACTIVATIONS, INTEGERS = ("q", "k", "v", "out"), ("slots", "positions", "decodes", "chunks", "tables")
"""Pointers to the activations' type, and to whole numbers."""
UNKNOWN = (
    "q",
    "k",
    "v",
    "scale",
    "q_token",
    "q_head",
    "k_token",
    "k_head",
    "v_token",
    "v_head",
    "table_stride",
    "splits",
)
"""Arguments of which nothing is known to be divisible."""


def kernels(dtype: torch.dtype, kv_dtype: torch.dtype) -> list[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """(kernel, constants, options) of each that a step launches."""
    compute = attention_options.product_type(dtype, kv_dtype, torch.device("cuda"))
    heads, more = {"HEADS": HEADS, "SPLIT": SPLIT}, {"GROUPS": 1, "COMPUTE": PRODUCTS[compute], "HEADS": HEADS}
    shape = {"DIM": DIM, "WIDTH": DIM, "VALUE_WIDTH": DIM, "BLOCK": BLOCK, "INT8": kv_dtype == torch.int8}
    writes, combines = {"KV_HEADS": HEADS, "GROUPS": 1, "TILE": 8}, {"DIM": DIM, "WIDTH": DIM, "BLOCK": BLOCK}
    alone = attention_options.alone(DIM, kv_dtype)
    return [
        (cache_kernels.write, shape | writes, {"num_warps": 4, "enable_fp_fusion": False}),
        (attention_kernels.decode_alone, shape | heads | {"STAGES": alone.pop("STAGES")}, alone),
        (attention_kernels.combine, combines | heads, {"num_warps": 1, "enable_fp_fusion": True}),
        (attention_kernels.prompt_chunk, shape | more, attention_options.chunk(DIM, kv_dtype, compute)),
    ]


def grouped(
    dtype: torch.dtype, kv_dtype: torch.dtype, groups: int, dim: int
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The kernel for query heads that share a key head: (kernel, constants, options)."""
    compute = attention_options.product_type(dtype, kv_dtype, torch.device("cuda"))
    options = attention_options.shared(dim, groups, compute)
    constants = {
        "HEADS": groups, "GROUPS": groups, "DIM": dim, "WIDTH": dim, "VALUE_WIDTH": dim, "BLOCK": BLOCK, "SPLIT": SPLIT,
        "INT8": kv_dtype == torch.int8, "ROWS": options.pop("ROWS"), "COMPUTE": PRODUCTS[compute],
    }  # fmt: skip
    return attention_kernels.decode_shared, constants, options


def compiled(kernel: Any, constants: dict[str, Any], options: dict[str, Any], *types: Any, architecture: int) -> Any:
    """The kernel for activations and a cache of two types."""
    signature, known = {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in ACTIVATIONS:
            signature[name] = POINTERS[types[0]]
        elif name in ("keys", "values"):
            signature[name] = POINTERS[types[1]]
        elif name in ("key_scales", "value_scales"):
            signature[name] = POINTERS[torch.float32 if types[1] == torch.int8 else types[1]]
        elif name in ("sums", "tops"):
            signature[name] = "*fp32"
        else:
            signature[name] = "*i32" if name in INTEGERS else "fp32" if name == "scale" else "i32"
        if name in constants:
            signature[name] = "constexpr"
        elif name not in UNKNOWN:
            known[(i,)] = [["tt.divisibility", 16]]
    constexprs = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs, known)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


def usage(binary: bytes) -> dict[str, int]:
    """What a program takes: REG, STACK, SHARED, LOCAL, …"""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    return {name: int(count) for name, count in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", text)}


def main() -> None:
    """Compile for one architecture."""
    for types in TYPES:
        shared = [grouped(*types, *shape) for shape in GROUPED]
        for kernel, constants, options in [*kernels(*types), *shared]:
            found = compiled(kernel, constants, options, *types, architecture=int(sys.argv[1]))
            wide = len(re.findall(r"ld\.global[.\w]*\.v4|cp\.async[.\w]* [^;]*, 0x10\b", found.asm["ptx"]))
            line = {
                "kernel": kernel.__name__,
                "groups": constants.get("GROUPS", 1),
                "types": [str(t) for t in types],
                "wide": wide,
                **usage(found.asm["cubin"]),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
