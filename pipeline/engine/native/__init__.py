"""The compiled attention kernel, where the installation could build it and this processor can run it.

The library is plain C (`attention.c`), reached through ctypes: it depends on no version of Python or torch. It shares
torch's threads by using the OpenMP runtime that torch has loaded; with one of its own, both would fight for the cores.
It does not know sequences or the model.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int32, c_int64, c_void_p
from pathlib import Path

import torch

LIBRARY = Path(__file__).with_name("_native.so")
ROWS = 4
"""Query rows that the kernel handles at once; as in attention.c."""
KINDS = {torch.float32: 0, torch.bfloat16: 1}
"""Types that the cache may have."""


class _Step(Structure):
    _fields_ = (
        ("chunks", c_void_p), ("tables", c_void_p), ("scratch", c_void_p),
        ("n", c_int64), ("table_stride", c_int64), ("scratch_stride", c_int64),
        ("heads", c_int32), ("kv_heads", c_int32), ("head_dim", c_int32), ("kind", c_int32), ("threads", c_int32),
        ("scale", c_float),
    )  # fmt: skip


class _Layer(Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("q", "k", "v", "out", "keys", "values")),
        *((name, c_int64) for name in ("q_token", "q_head", "k_token", "k_head", "v_token", "v_head")),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernel, or null: not built (no C compiler when promptmill was installed), or not for this processor."""
    if not LIBRARY.exists():
        return None
    try:
        runtime = _openmp()
        if runtime is not None:
            ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
        found = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None  # built for another system, or a torch without OpenMP
    found.processor_level.restype = c_int
    found.block_attention.argtypes = (POINTER(_Step), POINTER(_Layer))
    found.block_attention.restype = None
    return found if found.processor_level() else None


def level() -> str:
    """Which build of the kernel runs here, for the manifest: its roundings may differ from another's."""
    found = library()
    return "none" if found is None else {4: "x86-64-v4", 3: "x86-64-v3"}.get(found.processor_level(), "generic")


def _openmp() -> str | None:
    """Path of the OpenMP runtime in this process."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    files = [line.split(maxsplit=5)[-1] for line in lines if ".so" in line]
    return next((f for f in files if any(n in Path(f).name for n in ("libgomp", "libiomp", "libomp"))), None)


class NativeStep:
    """What all layers of one step share.

    Args:
        chunks: [N, 4] int32: first token, length, start position, row of `tables`.
        tables: [R, W] int32: block numbers.
        kv_heads: Key and value heads.
        head_dim: Elements a head.
        dtype: Type of the cache, of KINDS.
    """

    def __init__(
        self, chunks: torch.Tensor, tables: torch.Tensor, kv_heads: int, head_dim: int, dtype: torch.dtype
    ) -> None:
        """Keep the tensors, whose memory the kernel reads."""
        threads, width = torch.get_num_threads(), tables.shape[1]
        per_thread = ROWS * (2 * (-(-head_dim // 16) * 16) + width * 32)
        self._scratch = torch.empty(threads, per_thread)
        self._chunks, self._tables = chunks, tables
        self._step = _Step(
            chunks.data_ptr(), tables.data_ptr(), self._scratch.data_ptr(), len(chunks), width, per_thread,
            0, kv_heads, head_dim, KINDS[dtype], threads, 0.0,
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
            [T, H, D]; rows of tokens that no chunk has are zero.
        """
        out = torch.zeros(q.shape)
        self._step.heads, self._step.scale = q.shape[1], scale
        layer = _Layer(
            q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), keys.data_ptr(), values.data_ptr(),
            q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        )  # fmt: skip
        found = library()
        assert found is not None
        found.block_attention(byref(self._step), byref(layer))
        return out
