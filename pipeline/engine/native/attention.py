"""The compiled attention over a blocked KV cache; see `attention.c`."""

from __future__ import annotations

from ctypes import Structure, byref, c_float, c_int32, c_int64, c_void_p

import torch

from pipeline.engine.native import needed

RUN = 16
"""Query rows that a thread has room for, as in attention.c."""
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
"""Supported dtypes of the cache."""


class _Step(Structure):
    _fields_ = (
        ("chunks", c_void_p), ("tables", c_void_p), ("scratch", c_void_p), ("runs", c_void_p),
        ("n", c_int64), ("alone", c_int64), ("table_stride", c_int64), ("scratch_stride", c_int64),
        ("heads", c_int32), ("kv_heads", c_int32), ("head_dim", c_int32), ("kind", c_int32), ("threads", c_int32),
        ("scale", c_float),
    )  # fmt: skip


class _Layer(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("q", "k", "v", "out", "keys", "values")),
        *((name, c_int64) for name in ("q_token", "q_head", "k_token", "k_head", "v_token", "v_head")),
    )


class NativeStep:
    """The arguments that all layers of a step share.

    Args:
        chunks: [N, 4] int32: first token, length, start position, row of `tables`.
        tables: [R, W] int32: block numbers.
        kv_heads: Key and value heads.
        head_dim: Elements per head.
        dtype: Type of the cache, of KINDS.
        alone: How many of the first chunks write blocks that no other chunk of this step reads.
    """

    def __init__(
        self, chunks: torch.Tensor, tables: torch.Tensor, kv_heads: int, head_dim: int, dtype: torch.dtype,
        alone: int = 0,
    ) -> None:  # fmt: skip
        """Keep references to the tensors, whose memory the kernel reads."""
        self._library = needed()
        threads, width = torch.get_num_threads(), tables.shape[1]
        per_thread = RUN * (2 * (-(-head_dim // 16) * 16) + width * 32 + 1)
        self._scratch, self._runs = torch.empty(threads, per_thread), torch.empty(len(chunks) + 1, dtype=torch.int32)
        self._chunks, self._tables = chunks, tables
        end, count = int((chunks[:, 0] + chunks[:, 1]).max()), int(chunks[:, 1].sum())
        self._covered = end if count == end else 0
        self._step = _Step(
            chunks.data_ptr(), tables.data_ptr(), self._scratch.data_ptr(), self._runs.data_ptr(),
            len(chunks), alone, width, per_thread, 0, kv_heads, head_dim, KINDS[dtype], threads, 0.0,
        )  # fmt: skip

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Write the step's keys and values into a layer's cache and attend.

        Args:
            q: [T, H, D] float32; the last dimension must be contiguous, as in `k` and `v`.
            k: [T, H_kv, D].
            v: [T, H_kv, D].
            keys: The layer's cache; see `KVCache`.
            values: Likewise.
            scale: Factor on the scores.

        Returns:
            [T, H, D]; rows of tokens outside all chunks are zero.
        """
        out = torch.empty(q.shape)
        out[self._covered :] = 0
        self._step.heads, self._step.scale = q.shape[1], scale
        layer = _Layer(
            q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), keys.data_ptr(), values.data_ptr(),
            q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        )  # fmt: skip
        self._library.block_attention(byref(self._step), byref(layer))
        return out
