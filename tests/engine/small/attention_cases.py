"""Random steps over a blocked cache full of garbage, and exact attention in float64 to compare with."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from pipeline.engine import native
from pipeline.engine.cache.block_pool import BLOCK, blocks_for
from pipeline.engine.cache.kv_cache import key_scales, side_shapes, value_scales
from pipeline.engine.plain.attention import Spot

HEADS = [(2, 2), (4, 4), (4, 2), (6, 2), (8, 2), (14, 2), (4, 1), (7, 1)]
"""(query heads, key heads): each its own, shared by some, shared by all."""
DIMS = [4, 8, 16, 20, 64, 80, 128]
DTYPES = [torch.float32, torch.bfloat16, torch.int8]
EDGES = [1, 2, 31, 32, 33, 63, 64, 65, 95, 96, 97]


def _flags() -> set[str]:
    """What Linux says that the processor can do."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(({*line.split()} for line in lines if line.startswith("flags")), set())


X86 = platform.machine() in ("x86_64", "AMD64")
FUSED = {"avx", "avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"} <= _flags()
WIDE = FUSED and {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= _flags()
VNNI = ("avx512_vnni" if WIDE else "avx_vnni") in _flags()
BF16 = WIDE and VNNI and "avx512_bf16" in _flags()
AMX = BF16 and {"amx_tile", "amx_int8", "amx_bf16"} <= _flags()


def _level() -> str:
    """Which build of the kernels must run here."""
    if not X86:
        return native.levels()[0]
    if not FUSED:
        return "none"
    if AMX and ctypes.CDLL(None).syscall(158, 0x1023, 18) == 0:  # the system lets this process use tiles
        return "v4-amx"
    return "v4-bf16" if BF16 else ("v4" if WIDE else "v3") + "-vnni" * VNNI


LEVEL = _level()
"""The level that must be in use here."""
BUILT = (native.FOLDER / f"_native-{LEVEL}.so").exists()
needs_kernels = pytest.mark.skipif(
    not BUILT, reason="the kernels were not built (no C compiler at installation), or are not for this processor"
)


@dataclass
class Case:
    """A step: `news[i]` tokens of sequence i after `pasts[i]` that lie in the cache; whatever else lies there is garbage."""

    pasts: list[int]
    news: list[int]
    q: torch.Tensor  # [T, H, D]
    k: torch.Tensor  # [T, H_kv, D]
    v: torch.Tensor
    past_k: list[torch.Tensor]  # [past, H_kv, D] each
    past_v: list[torch.Tensor]
    tables: torch.Tensor  # [R, W]
    keys: torch.Tensor
    values: torch.Tensor

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What Hypothesis shows: not every number."""
        lengths = [*zip(self.pasts, self.news, strict=True)]
        printer.text(f"Case({lengths}, {self.q.shape[1:]}, {self.k.shape[1:]}, {self.keys.dtype})")

    @property
    def scale(self) -> float:
        return float(self.q.shape[-1] ** -0.5)

    @property
    def firsts(self) -> list[int]:
        """First token of each sequence in the step."""
        return [sum(self.news[:i]) for i in range(len(self.news))]

    @property
    def spots(self) -> list[Spot]:
        """Its chunks: one block's positions of one sequence each."""
        return [spot for row in range(len(self.news)) for spot in self.spots_of(row, BLOCK)]

    def spots_of(self, row: int, longest: int) -> list[Spot]:
        found, position, end = list[Spot](), self.pasts[row], self.pasts[row] + self.news[row]
        while position < end:
            length = min(longest, BLOCK - position % BLOCK, end - position)
            found.append((self.firsts[row] + position - self.pasts[row], length, position, row))
            position += length
        return found

    def exact(self, row: int) -> torch.Tensor:
        """Float64 attention [new, H, D] of a sequence over what the cache can hold of its keys and values."""
        mine = slice(self.firsts[row], self.firsts[row] + self.news[row])
        dtype, groups = self.keys.dtype, self.q.shape[1] // self.k.shape[1]
        k, v = (
            kept(torch.cat([past[row], new[mine]]), dtype).repeat_interleave(groups, 1)
            for past, new in ((self.past_k, self.k), (self.past_v, self.v))
        )
        scores = torch.einsum("thd,shd->hts", self.q[mine].double(), k) * self.scale
        later = torch.arange(len(k)) > self.pasts[row] + torch.arange(self.news[row])[:, None]
        return torch.einsum("hts,shd->thd", scores.masked_fill(later, -torch.inf).softmax(-1), v)

    def expected_cache(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The cache after the step, written element by element."""
        keys, values = self.keys.clone(), self.values.clone()
        for row, first in enumerate(self.firsts):
            for i in range(self.news[row]):
                put(keys, values, self.tables[row], self.pasts[row] + i, self.k[first + i], self.v[first + i])
        return keys, values


def in_steps(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers up to 127 and a scale for each row of the last dimension, by numpy in float32."""
    numbers = x.numpy()
    largest = np.abs(numbers).max(-1, keepdims=True).clip(np.float32(1e-12))
    return torch.from_numpy(np.rint(numbers * (np.float32(127) / largest))), torch.from_numpy(largest / np.float32(127))


def kept(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What a cache of a type keeps of keys or values, in float64."""
    if dtype != torch.int8:
        return x.to(dtype).double()
    numbers, scale = in_steps(x)
    return numbers.double() * scale.double()


def put(
    keys: torch.Tensor, values: torch.Tensor, table: torch.Tensor, position: int, k: torch.Tensor, v: torch.Tensor
) -> None:
    block, offset, dim = int(table[position // BLOCK]), position % BLOCK, k.shape[-1]
    if keys.dtype == torch.int8:
        (k, k_scale), (v, v_scale) = in_steps(k), in_steps(v)
        key_scales(keys)[block, :, offset] = k_scale[:, 0]
        value_scales(values)[block, :, offset] = v_scale[:, 0]
    keys[block, :, :dim, offset] = k.to(keys.dtype)
    values[block, :, offset, :dim] = v.to(values.dtype)


def garbage(blocks: int, kv_heads: int, dim: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Keys and values that nobody wrote: no numbers, as far as the type has such."""
    sides = [torch.zeros(blocks, *side, dtype=dtype) for side in side_shapes(kv_heads, dim, dtype)]
    if dtype != torch.int8:
        return [side.fill_(torch.nan) for side in sides]
    for side, scales in zip(sides, (key_scales, value_scales), strict=True):
        side.fill_(77)
        scales(side).fill_(torch.nan)
    return sides


def make_case(
    seed: int, lengths: list[tuple[int, int]], heads: tuple[int, int], dim: int, dtype: torch.dtype, size: float = 1.0
) -> Case:
    """Draw a step. Scores are normal with a deviation of about `size`."""
    draw = torch.Generator().manual_seed(seed)
    pasts, news = [past for past, _ in lengths], [new for _, new in lengths]
    needed = [blocks_for(past + new) for past, new in lengths]
    blocks = sum(needed) + 3
    order = torch.randperm(blocks, generator=draw).to(torch.int32)
    tables = torch.full((len(lengths), max(needed)), blocks - 1, dtype=torch.int32)
    for row, count in enumerate(needed):
        tables[row, :count] = order[sum(needed[:row]) :][:count]
    count, kv_heads = sum(news), heads[1]
    q = size * torch.randn(count, heads[0], dim, generator=draw)
    k, v = (torch.randn(count, kv_heads, dim, generator=draw) for _ in range(2))
    past_k, past_v = ([torch.randn(past, kv_heads, dim, generator=draw) for past in pasts] for _ in range(2))
    case = Case(pasts, news, q, k, v, past_k, past_v, tables, *garbage(blocks, kv_heads, dim, dtype))
    for row, past in enumerate(pasts):
        for position in range(past):
            put(case.keys, case.values, tables[row], position, case.past_k[row][position], case.past_v[row][position])
    return case


@st.composite
def cases(draw: st.DrawFn, longest: int = 330, dtypes: list[torch.dtype] = DTYPES) -> Case:
    """Steps of decoding sequences and of prompts that begin and end anywhere."""
    position = st.one_of(st.sampled_from([0, *EDGES]), st.integers(0, longest))
    new = st.one_of(st.just(1), st.sampled_from(EDGES), st.integers(1, 110))
    lengths = draw(st.lists(st.tuples(position, new), min_size=1, max_size=5))
    heads, dim, dtype = (draw(st.sampled_from(HEADS)), draw(st.sampled_from(DIMS)), draw(st.sampled_from(dtypes)))
    return make_case(draw(st.integers(0, 2**31)), lengths, heads, dim, dtype)


def assert_exact(case: Case, out: torch.Tensor, tolerance: float = 2e-5) -> None:
    """Assert that `out` [T, H, D] is attention within float32's rounding of it; `tolerance` is for values of about 1."""
    for row, first in enumerate(case.firsts):
        found = out[first : first + case.news[row]].double()
        torch.testing.assert_close(found, case.exact(row), rtol=tolerance, atol=tolerance)
