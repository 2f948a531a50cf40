"""The compile options of the attention kernels: warps, stages, the type of their products.

Each choice depends only on types and the shape of a head, never on a step, so a row's bits cannot depend on its batch. The
choices follow the compiler's statistics: the fewest warps without spilled registers.
"""

from __future__ import annotations

from typing import Any

import torch

from pipeline.engine.cache.block_pool import BLOCK

_EXPLICIT = {"enable_fp_fusion": True}  # the default, which newer versions of Triton want to be told


def power_of_two(count: int) -> int:
    """The least power of two that holds a number."""
    return 1 << (count - 1).bit_length()


def product_type(dtype: torch.dtype, kv_dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The type in which a tensor core multiplies queries of `dtype` with a cache of `kv_dtype`; float32 where they disagree."""
    if kv_dtype not in (dtype, torch.int8):
        return torch.float32
    # Triton's interpreter, which tests run on a CPU, has no product of bfloat16
    return torch.float32 if device.type == "cpu" and dtype == torch.bfloat16 else dtype


def alone(width: int, kv_dtype: torch.dtype) -> dict[str, Any]:
    """For `decode_alone`.

    One warp needs no other. A head of 64 in bfloat16 has 8 KiB of keys and values a block, and two blocks are on their way
    while one is read. The shared memory of an H100's or H200's multiprocessor holds thirteen such programs: over 100 KiB are
    on their way, where its bandwidth wants some 40. And where few sequences decode, they do not wait for each block in turn.

    Args:
        width: Elements of a head, a power of two.
        kv_dtype: Type of the cache.
    """
    tile = width * BLOCK * kv_dtype.itemsize  # bytes
    return {"STAGES": 3 if tile <= 8192 else 2, "num_warps": max(1, tile // 8192), "num_stages": 1, **_EXPLICIT}


def shared(width: int, groups: int, compute: torch.dtype) -> dict[str, Any]:
    """For `decode_shared`: float32 is multiplied without tensor cores, so it takes no more rows than there are.

    Args:
        width: Elements of a head, a power of two.
        groups: Query heads that share a key head.
        compute: Type of the products.
    """
    if compute == torch.float32:
        rows = max(4, power_of_two(groups))
        return {"ROWS": rows, "num_warps": min(16, max(2, width * rows // 256)), "num_stages": 1, **_EXPLICIT}
    rows = max(16, power_of_two(groups))
    return {"ROWS": rows, "num_warps": min(8, max(1, width * rows // 1024)), "num_stages": 3, **_EXPLICIT}


def chunk(width: int, kv_dtype: torch.dtype, compute: torch.dtype) -> dict[str, Any]:
    """For `prompt_chunk`.

    Args:
        width: Elements of a head, a power of two.
        kv_dtype: Type of the cache.
        compute: Type of the products.
    """
    if compute == torch.float32:
        return {"num_warps": min(8, max(4, width // 16)), "num_stages": 1, **_EXPLICIT}
    return {"num_warps": 2 if width <= 64 else 4, "num_stages": 2 if kv_dtype == torch.int8 else 3, **_EXPLICIT}
