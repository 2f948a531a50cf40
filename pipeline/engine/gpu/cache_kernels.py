# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, allow-incomplete-defs
"""Kernels that access the blocked KV cache: write a step's keys and values, read one head's tile of a block.

Addresses have 64 bits, because a cache may have more than 2^31 elements.
"""

from __future__ import annotations

import triton
import triton.language as tl

STRIDES = ["q_token", "q_head", "k_token", "k_head", "v_token", "v_head", "table_stride"]
ANYWHERE = ["q", "k", "v", "slots", "positions", "decodes", "chunks", "tables"]
"""Arguments that may be divisible by anything in one step and not in another: there is one program for all of them."""
STEPS = tl.constexpr(127.0)
# 1.5 · 2^23: a small number that is added to it is rounded to a whole one, ties to even
ROUND = tl.constexpr(12582912.0)


@triton.jit
def _in_steps(x):
    """Quantise [N, WIDTH] of float32 as `kv_cache.in_steps` does; (numbers in float32, scales [N])."""
    finite = tl.abs(x) < float("inf")
    strange = tl.max((finite == 0).to(tl.int32), 1) > 0
    largest = tl.maximum(tl.max(tl.abs(tl.where(finite, x, 0.0)), 1), 1e-12)
    factor = tl.div_rn(1.0, largest) * STEPS
    numbers = tl.where(strange[:, None], 0.0, x * factor[:, None])
    return (numbers + ROUND) - ROUND, tl.where(strange, float("nan"), tl.div_rn(largest, STEPS))


@triton.jit(do_not_specialize=STRIDES, do_not_specialize_on_alignment=ANYWHERE)
def write(
    k, v, keys, key_scales, values, value_scales, out, slots, positions, tables,
    k_token, k_head, v_token, v_head, key_block, key_head, value_block, value_head, table_stride,
    KV_HEADS: tl.constexpr, GROUPS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, TILE: tl.constexpr, INT8: tl.constexpr,
):  # fmt: skip
    """Write a token's keys and values of TILE heads; an idle token gets an output of zeros instead.

    It must be compiled without fused multiplication, which would round a quantised number once where `in_steps` does twice.
    """
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * TILE + tl.arange(0, TILE)
    d = tl.arange(0, WIDTH)
    there = (head < KV_HEADS)[:, None] & (d < DIM)[None, :]
    position = tl.load(positions + token)
    if position < 0:
        for group in range(GROUPS):
            row = (token * KV_HEADS + head) * GROUPS + group
            tl.store(out + row[:, None] * DIM + d[None, :], tl.zeros([TILE, WIDTH], tl.float32), mask=there)
        return
    x = tl.load(k + token * k_token + head[:, None].to(tl.int64) * k_head + d[None, :], mask=there, other=0.0)
    y = tl.load(v + token * v_token + head[:, None].to(tl.int64) * v_head + d[None, :], mask=there, other=0.0)
    table = tables + tl.load(slots + token).to(tl.int64) * table_stride
    block = tl.load(table + position // BLOCK).to(tl.int64)
    key_at = block * key_block + head * key_head
    value_at = block * value_block + head * value_head
    place = position % BLOCK
    if INT8:
        x, x_scale = _in_steps(x.to(tl.float32))
        y, y_scale = _in_steps(y.to(tl.float32))
        tl.store(key_scales + (key_at + DIM * BLOCK) // 4 + place, x_scale, mask=head < KV_HEADS)
        tl.store(value_scales + (value_at + BLOCK * VALUE_WIDTH) // 4 + place, y_scale, mask=head < KV_HEADS)
    kind = keys.dtype.element_ty
    tl.store(keys + key_at[:, None] + d[None, :] * BLOCK + place, x.to(kind), mask=there)
    tl.store(values + value_at[:, None] + place * VALUE_WIDTH + d[None, :], y.to(kind), mask=there)


@triton.jit
def key_tile(keys, at, last, DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Keys [WIDTH, BLOCK] of a head's block that begins at the address `at`; what comes after position `last` may be anything.

    Eight positions at a time are asked for or left out, so that a load stays a vector. A thread takes no more of 8-bit ones,
    since what it takes side by side must later be added across threads.
    """
    d = tl.arange(0, WIDTH)[:, None]
    p = tl.max_contiguous(tl.arange(0, BLOCK), 8)[None, :]
    return tl.load(keys + at + d * BLOCK + p, mask=(d < DIM) & (p // 8 * 8 <= last), other=0.0)


@triton.jit
def value_tile(
    values, at, last, DIM: tl.constexpr, WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    """Values [BLOCK, WIDTH] of a head's block; zero after position `last`, where the cache may hold no numbers."""
    p = tl.arange(0, BLOCK)[:, None]
    d = tl.max_contiguous(tl.arange(0, WIDTH), 8)[None, :]
    return tl.load(values + at + p * VALUE_WIDTH + d, mask=(d < DIM) & (p <= last), other=0.0)


@triton.jit
def scales_of(scales, at, last, BLOCK: tl.constexpr):
    """Scales [BLOCK] of a head's block, at the address `at` in bytes; zero after position `last`."""
    p = tl.arange(0, BLOCK)
    return tl.load(scales + at // 4 + p, mask=p <= last, other=0.0)
