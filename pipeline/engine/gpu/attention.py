"""Attention over the blocked KV cache with Triton kernels, for steps whose shape a CUDA graph fixes.

Only the device knows the content of a step: the grid covers the most that it may hold, and programs without work end at
once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.engine.cache.block_pool import BLOCK
from pipeline.engine.cache.kv_cache import padded
from pipeline.engine.gpu import attention_options
from pipeline.engine.gpu.attention_options import power_of_two, product_type

SPLIT = 16
"""Blocks that one program of decoding reads: 512 positions. Most sequences are then done by one program, without scratch
memory, and the longest of gpt2 by two; a long sequence among few would be quicker with smaller parts."""
_LOG2E = 1.4426950408889634
_TILE = 8
"""Heads whose keys and values one program writes."""


@dataclass(frozen=True, slots=True)
class DeviceStep:
    """A step of fixed shape on the device. Nothing here looks at a tensor's content on the host.

    Every token that is not idle either decodes or lies in a chunk. All are written to the cache before any is read.

    Attributes:
        slots: int32 [T]: each token's row of `tables`.
        positions: int32 [T]: its position in the sequence; -1: an idle token, whose output is zero. Nothing is read of it.
        decodes: int32 [1]: the first that many tokens decode: one query each.
        chunks: int32 [C, 4]: first token, length 1 … BLOCK (0: idle), start position (of a block), row of `tables`.
        tables: int32 [S, W]: block numbers.
        rows: The most tokens that may decode.
        splits: The most parts of SPLIT blocks that a decoding sequence has, at least 1. It changes no bit.
    """

    slots: Tensor
    positions: Tensor
    decodes: Tensor
    chunks: Tensor
    tables: Tensor
    rows: int
    splits: int

    def attend(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """Write the step's keys and values into a layer's cache and attend.

        Args:
            q: [T, H, D] of float32, bfloat16 or float16; the last dimension must be contiguous, as in `k` and `v`.
            k: [T, H_kv, D].
            v: [T, H_kv, D].
            keys: The layer's cache; see `KVCache`.
            values: Likewise.
            scale: Factor on the scores.

        Returns:
            [T, H, D] in the type of `q`.
        """
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        if len(q):
            layer = _Layer(self, q, k, v, out, keys, values, scale)
            layer.write()
            if self.rows:
                layer.decode()
            if len(self.chunks):
                layer.read_chunks()
        return out


class _Layer:
    """The launches of one layer of a step; the arguments are those of `DeviceStep.attend`."""

    def __init__(
        self, step: DeviceStep, q: Tensor, k: Tensor, v: Tensor, out: Tensor, keys: Tensor, values: Tensor, scale: float
    ) -> None:  # fmt: skip
        """Collect what several kernels take."""
        self._step, self._q, self._k, self._v, self._out = step, q, k, v, out
        self._heads, self._kv_heads, dim = q.shape[1], k.shape[1], q.shape[2]
        self._groups, self._width = self._heads // self._kv_heads, max(16, power_of_two(dim))
        self._kv_dtype, self._factor = keys.dtype, scale * _LOG2E
        self._compute = product_type(q.dtype, keys.dtype, q.device)
        self._sides = (keys, _in_float32(keys), values, _in_float32(values))
        self._strides = (*keys.stride()[:2], *values.stride()[:2], step.tables.stride(0))
        self._shape = {
            "DIM": dim, "WIDTH": self._width, "VALUE_WIDTH": padded(dim), "BLOCK": BLOCK, "INT8": keys.dtype == torch.int8,
        }  # fmt: skip

    def write(self) -> None:
        """Put keys and values into the cache, zeros into the output of idle tokens."""
        from pipeline.engine.gpu import cache_kernels

        step, k, v = self._step, self._k, self._v
        cache_kernels.write[len(k), -(-self._kv_heads // _TILE)](
            k, v, *self._sides, self._out, step.slots, step.positions, step.tables,
            *k.stride()[:2], *v.stride()[:2], *self._strides,
            KV_HEADS=self._kv_heads, GROUPS=self._groups, TILE=_TILE, **self._shape, num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip

    def decode(self) -> None:
        """Attend with one query of each decoding sequence."""
        from pipeline.engine.gpu import attention_kernels

        step, heads, device, rows = self._step, self._heads, self._q.device, min(self._step.rows, len(self._q))
        tops = torch.empty(rows, step.splits, heads, 2, device=device)
        sums = torch.empty(rows, step.splits, heads, self._width, device=device)
        kernel: Any = attention_kernels.decode_alone
        options = attention_options.alone(self._width, self._kv_dtype)
        if self._groups > 1:
            kernel = attention_kernels.decode_shared
            options = attention_options.shared(self._width, self._groups, self._compute)
            options |= {"GROUPS": self._groups, "COMPUTE": _triton_type(self._compute)}
        kernel[self._kv_heads, rows, step.splits](
            self._q, *self._sides, self._out, sums, tops, step.slots, step.positions, step.decodes, step.tables,
            self._factor, *self._q.stride()[:2], *self._strides, HEADS=heads, SPLIT=SPLIT, **self._shape, **options,
        )  # fmt: skip
        if step.splits > 1:
            attention_kernels.combine[heads, rows](
                sums, tops, self._out, step.positions, step.decodes, step.splits, HEADS=heads, DIM=self._shape["DIM"],
                WIDTH=self._width, BLOCK=BLOCK, SPLIT=SPLIT, num_warps=1, enable_fp_fusion=True,
            )  # fmt: skip

    def read_chunks(self) -> None:
        """Attend with the chunks of prompts."""
        from pipeline.engine.gpu import attention_kernels

        chunks, options = self._step.chunks, attention_options.chunk(self._width, self._kv_dtype, self._compute)
        attention_kernels.prompt_chunk[self._heads, len(chunks)](
            self._q, *self._sides, self._out, chunks, self._step.tables, self._factor,
            *self._q.stride()[:2], *self._strides, HEADS=self._heads, GROUPS=self._groups,
            COMPUTE=_triton_type(self._compute), **self._shape, **options,
        )  # fmt: skip


def _triton_type(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[dtype]


def _in_float32(side: Tensor) -> Tensor:
    """The memory of an 8-bit cache as float32, for its scales."""
    return side.view(torch.float32) if side.dtype == torch.int8 else side
