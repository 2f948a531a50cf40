"""The cache's memory: its size as planned, taken as it is written, and blocks that are copied whole."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.cache.block_pool import BLOCK
from pipeline.engine.cache.kv_cache import KVCache, block_bytes, key_scales, padded, value_scales
from pipeline.engine.cache.memory import MemoryPlan, held_by_blocks
from pipeline.machine import huge_page_bytes

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int8]


@given(
    layers=st.integers(1, 3), blocks=st.integers(1, 4), heads=st.integers(1, 3), dim=st.integers(1, 130),
    dtype=st.sampled_from(DTYPES),
)  # fmt: skip
def test_its_shape_and_size(layers: int, blocks: int, heads: int, dim: int, dtype: torch.dtype) -> None:
    cache = KVCache(layers, blocks, heads, dim, dtype, CPU)
    sides = [*cache.keys, *cache.values]
    assert [len(cache.keys), len(cache.values)] == [layers, layers]
    more = (4, -(-128 // padded(dim))) if dtype == torch.int8 else (0, 0)
    assert {tuple(k.shape) for k in cache.keys} == {(blocks, heads, dim + more[0], BLOCK)}
    assert {tuple(v.shape) for v in cache.values} == {(blocks, heads, BLOCK + more[1], padded(dim))}
    assert all(side.dtype == dtype and side.is_contiguous() and not side.any() for side in sides)
    assert sum(side.nbytes for side in sides) == blocks * block_bytes(layers, heads, dim, dtype)
    assert dim <= padded(dim) < dim + 16 and padded(dim) % 16 == 0
    assert len({side.data_ptr() for side in sides}) == 2 * layers


def test_it_needs_no_system_that_has_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    cache = KVCache(1, 2, 1, 16, torch.float32, CPU)
    cache.keys[0][1] = 3
    assert cache.keys[0].sum() == 3 * cache.keys[0][1].numel()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_copy_is_of_whole_blocks_in_all_layers(dtype: torch.dtype) -> None:
    cache = KVCache(2, 4, 2, 20, dtype, CPU)
    sides, draw = [*cache.keys, *cache.values], torch.Generator().manual_seed(1)
    for side in sides:
        side.copy_((9 * torch.randn(side.shape, generator=draw)).to(dtype))
    before = [side.clone() for side in sides]
    cache.copy([3], [1])
    for side, was in zip(sides, before, strict=True):
        assert torch.equal(side, was[[0, 3, 2, 3]])
    cache.copy([3, 3], [0, 2])
    for side, was in zip(sides, before, strict=True):
        assert torch.equal(side, was[[3, 3, 3, 3]])
    cache.keys[0][3] = 0
    assert torch.equal(cache.keys[0][1], before[0][3]), "a copy, not the same memory"


def resident() -> int:
    """Bytes of memory that this process has, files left out."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is counted as Linux does it")
def test_memory_follows_use() -> None:
    """Gigabytes of address space; memory for what is written."""
    before = resident()
    cache = KVCache(2, 4096, 8, 64, torch.float32, CPU)
    assert 4096 * block_bytes(2, 8, 64, torch.float32) == 2**30
    assert resident() - before < 20 * 2**20
    for side in (*cache.keys, *cache.values):
        side[:256].fill_(1.0)
    written = 256 * block_bytes(2, 8, 64, torch.float32)
    assert 0.9 * written < resident() - before < 1.5 * written


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is counted as Linux does it")
def test_memory_can_be_taken_before_use() -> None:
    before = resident()
    cache = KVCache(2, 4096, 8, 64, torch.float32, CPU)
    cache.take(256)
    wanted = 256 * block_bytes(2, 8, 64, torch.float32)
    assert 0.9 * wanted < resident() - before < 1.5 * wanted or not populates()
    for side in (*cache.keys, *cache.values):
        assert not side[:256].any()
    KVCache(1, 4, 1, 4, torch.float32, CPU).take(10_000)  # no more than there are


def populates() -> bool:
    """Whether this kernel takes memory when it is asked to (Linux 5.14)."""
    with mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        try:
            area.madvise(23)
        except OSError:
            return False
    return True


@given(dim=st.integers(1, 130), blocks=st.integers(1, 3))
def test_scales_have_places_of_their_own(dim: int, blocks: int) -> None:
    cache = KVCache(1, blocks, 2, dim, torch.int8, CPU)
    for side, scales in ((cache.keys[0], key_scales), (cache.values[0], value_scales)):
        found = scales(side)
        assert found.shape == (blocks, 2, BLOCK)
        found[:] = torch.arange(found.numel()).view(found.shape)
        assert torch.equal(scales(side), found) and found.data_ptr() > side.data_ptr()
    assert not cache.keys[0][:, :, :dim].any() and not cache.values[0][:, :, :BLOCK].any()


def held(cache: KVCache, kind: str = "Rss") -> int:
    """The memory of a cache's two maps as the system counts it."""
    sides, found, inside = {side[0].data_ptr() for side in (cache.keys, cache.values)}, 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            low, high = (int(end, 16) for end in first.split("-"))
            inside = any(low <= side < high for side in sides)
        elif inside and first == f"{kind}:":
            found += int(line.split()[1]) * 1024
    return found


@pytest.mark.parametrize(("layers", "blocks"), [(30, 48), (12, 100), (3, 640)])
def test_the_memory_of_the_first_blocks_is_as_it_is_foreseen(layers: int, blocks: int) -> None:
    cache, size = KVCache(layers, 640, 3, 64, torch.float32, CPU), block_bytes(layers, 3, 64, torch.float32)
    assert held(cache) < 2 * layers * 2**22, "next to nothing before"
    cache.take(blocks)
    taken, pages = held(cache), huge_page_bytes()
    if not taken:
        pytest.skip("this system does not take memory in advance")
    foreseen = held_by_blocks(blocks, MemoryPlan(128, 640), block_bytes=size, layers=layers, page_bytes=pages)
    assert min(blocks * size, foreseen) <= taken
    assert abs(foreseen - taken) <= 2 * layers * pages + 2**20
    if held(cache, "AnonHugePages") > 0.95 * taken:  # a system may have none left
        assert taken == pytest.approx(foreseen, rel=0.1)
