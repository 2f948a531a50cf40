# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, allow-incomplete-defs
"""The kernels of attention over the blocked KV cache: decoding in parts, their combination, chunks of prompts.

All keep a running maximum and sum over blocks, as FlashAttention does (Dao et al. 2022), with scores to the base 2. No
shape and no order of sums depends on the size of a step.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pipeline.engine.gpu.cache_kernels import ANYWHERE, STRIDES, key_tile, scales_of, value_tile


@triton.jit(do_not_specialize=STRIDES, do_not_specialize_on_alignment=ANYWHERE)
def decode_alone(
    q, keys, key_scales, values, value_scales, out, sums, tops, slots, positions, decodes, tables, scale,
    q_token, q_head, key_block, key_head, value_block, value_head, table_stride,
    HEADS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    SPLIT: tl.constexpr, INT8: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One query over one part of its sequence, where each query head has its own keys: products and sums in float32.

    A tensor core would see sixteen rows of which one counts. Blocks are copied to shared memory STAGES - 1 turns ahead.
    """
    head, row, part = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    position = tl.load(positions + row)
    first = part * SPLIT * BLOCK
    if (position < first) | (row >= tl.load(decodes)):
        return
    d = tl.arange(0, WIDTH)
    p = tl.arange(0, BLOCK)
    query = tl.load(q + row * q_token + head.to(tl.int64) * q_head + d, mask=d < DIM, other=0.0).to(tl.float32) * scale
    table = tables + tl.load(slots + row).to(tl.int64) * table_stride + part * SPLIT
    top = float("-inf")
    total = 0.0
    mixed = tl.zeros([WIDTH], tl.float32)
    for i in tl.range(0, tl.minimum((position - first) // BLOCK + 1, SPLIT), num_stages=STAGES):
        block = tl.load(table + i).to(tl.int64)
        last = position - first - i * BLOCK
        key_at = block * key_block + head * key_head
        value_at = block * value_block + head * value_head
        k = key_tile(keys, key_at, last, DIM, WIDTH, BLOCK)
        v = value_tile(values, value_at, last, DIM, WIDTH, VALUE_WIDTH, BLOCK)
        scores = tl.sum(query[:, None] * k.to(tl.float32), 0)
        if INT8:
            scores *= scales_of(key_scales, key_at + DIM * BLOCK, last, BLOCK)
        scores = tl.where(p <= last, scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 0))
        fade = tl.exp2(top - higher)
        weights = tl.exp2(scores - higher)
        total = total * fade + tl.sum(weights, 0)
        if INT8:
            weights *= scales_of(value_scales, value_at + BLOCK * VALUE_WIDTH, last, BLOCK)
        mixed = mixed * fade + tl.sum(weights[:, None] * v.to(tl.float32), 0)
        top = higher
    if position < SPLIT * BLOCK:
        tl.store(out + (row * HEADS + head) * DIM + d, mixed / total, mask=d < DIM)
    else:
        at = (row * tl.num_programs(2) + part) * HEADS + head
        tl.store(sums + at * WIDTH + d, mixed)
        tl.store(tops + at * 2, top)
        tl.store(tops + at * 2 + 1, total)


@triton.jit(do_not_specialize=STRIDES, do_not_specialize_on_alignment=ANYWHERE)
def decode_shared(
    q, keys, key_scales, values, value_scales, out, sums, tops, slots, positions, decodes, tables, scale,
    q_token, q_head, key_block, key_head, value_block, value_head, table_stride,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, SPLIT: tl.constexpr, INT8: tl.constexpr, ROWS: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """The GROUPS queries that share a key head over one part of their sequence: each key and value is read once.

    ROWS, at least GROUPS, is what a matrix product takes; the rows that are too many repeat nothing and are not stored.
    """
    kv_head, row, part = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    position = tl.load(positions + row)
    first = part * SPLIT * BLOCK
    if (position < first) | (row >= tl.load(decodes)):
        return
    g = tl.arange(0, ROWS)
    d = tl.arange(0, WIDTH)
    p = tl.arange(0, BLOCK)
    heads = kv_head * GROUPS + g
    there = (g < GROUPS)[:, None] & (d < DIM)[None, :]
    query = tl.load(q + row * q_token + heads.to(tl.int64)[:, None] * q_head + d[None, :], mask=there, other=0.0)
    query = query.to(COMPUTE)
    table = tables + tl.load(slots + row).to(tl.int64) * table_stride + part * SPLIT
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, WIDTH], tl.float32)
    for i in range(tl.minimum((position - first) // BLOCK + 1, SPLIT)):
        block = tl.load(table + i).to(tl.int64)
        last = position - first - i * BLOCK
        key_at = block * key_block + kv_head * key_head
        value_at = block * value_block + kv_head * value_head
        k = key_tile(keys, key_at, last, DIM, WIDTH, BLOCK)
        v = value_tile(values, value_at, last, DIM, WIDTH, VALUE_WIDTH, BLOCK)
        scores = tl.dot(query, k.to(COMPUTE), input_precision="ieee") * scale
        if INT8:
            scores *= scales_of(key_scales, key_at + DIM * BLOCK, last, BLOCK)[None, :]
        scores = tl.where((p <= last)[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        fade = tl.exp2(top - higher)
        weights = tl.exp2(scores - higher[:, None])
        total = total * fade + tl.sum(weights, 1)
        if INT8:
            weights *= scales_of(value_scales, value_at + BLOCK * VALUE_WIDTH, last, BLOCK)[None, :]
        mixed = tl.dot(weights.to(COMPUTE), v.to(COMPUTE), mixed * fade[:, None], input_precision="ieee")
        top = higher
    if position < SPLIT * BLOCK:
        tl.store(out + (row * HEADS + heads)[:, None] * DIM + d[None, :], mixed / total[:, None], mask=there)
    else:
        at = (row * tl.num_programs(2) + part) * HEADS + heads
        tl.store(sums + at[:, None] * WIDTH + d[None, :], mixed, mask=(g < GROUPS)[:, None])
        tl.store(tops + at * 2, top, mask=g < GROUPS)
        tl.store(tops + at * 2 + 1, total, mask=g < GROUPS)


@triton.jit(do_not_specialize=["splits"], do_not_specialize_on_alignment=ANYWHERE)
def combine(
    sums, tops, out, positions, decodes, splits,
    HEADS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Put the parts of a long sequence together, one after the other; a sequence of one part is done already."""
    head, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    position = tl.load(positions + row)
    if (position < SPLIT * BLOCK) | (row >= tl.load(decodes)):
        return
    d = tl.arange(0, WIDTH)
    top = float("-inf")
    total = 0.0
    mixed = tl.zeros([WIDTH], tl.float32)
    for part in range(position // (SPLIT * BLOCK) + 1):
        at = (row * splits + part) * HEADS + head
        part_top = tl.load(tops + at * 2)
        higher = tl.maximum(top, part_top)
        fade = tl.exp2(top - higher)
        grow = tl.exp2(part_top - higher)
        total = total * fade + tl.load(tops + at * 2 + 1) * grow
        mixed = mixed * fade + tl.load(sums + at * WIDTH + d) * grow
        top = higher
    tl.store(out + (row * HEADS + head) * DIM + d, mixed / total, mask=d < DIM)


@triton.jit(do_not_specialize=STRIDES, do_not_specialize_on_alignment=ANYWHERE)
def prompt_chunk(
    q, keys, key_scales, values, value_scales, out, chunks, tables, scale,
    q_token, q_head, key_block, key_head, value_block, value_head, table_stride,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, INT8: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Up to BLOCK queries of a prompt, which begin on a block, over the blocks before and, causally, their own."""
    head, chunk = tl.program_id(0), tl.program_id(1)
    length = tl.load(chunks + chunk * 4 + 1)
    if length == 0:
        return
    token = tl.load(chunks + chunk * 4).to(tl.int64)
    start = tl.load(chunks + chunk * 4 + 2)
    table = tables + tl.load(chunks + chunk * 4 + 3).to(tl.int64) * table_stride
    kv_head = head // GROUPS
    t = tl.arange(0, BLOCK)
    d = tl.arange(0, WIDTH)
    p = tl.arange(0, BLOCK)
    there = (t < length)[:, None] & (d < DIM)[None, :]
    query = tl.load(q + (token + t)[:, None] * q_token + head.to(tl.int64) * q_head + d[None, :], mask=there, other=0.0)
    query = query.to(COMPUTE)
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    mixed = tl.zeros([BLOCK, WIDTH], tl.float32)
    for i in range(start // BLOCK + 1):
        block = tl.load(table + i).to(tl.int64)
        ahead = start - i * BLOCK  # of the block's first position to the first query
        last = ahead + length - 1
        key_at = block * key_block + kv_head * key_head
        value_at = block * value_block + kv_head * value_head
        k = key_tile(keys, key_at, last, DIM, WIDTH, BLOCK)
        v = value_tile(values, value_at, last, DIM, WIDTH, VALUE_WIDTH, BLOCK)
        scores = tl.dot(query, k.to(COMPUTE), input_precision="ieee") * scale
        if INT8:
            scores *= scales_of(key_scales, key_at + DIM * BLOCK, last, BLOCK)[None, :]
        scores = tl.where(p[None, :] <= (ahead + t)[:, None], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        fade = tl.exp2(top - higher)
        weights = tl.exp2(scores - higher[:, None])
        total = total * fade + tl.sum(weights, 1)
        if INT8:
            weights *= scales_of(value_scales, value_at + BLOCK * VALUE_WIDTH, last, BLOCK)[None, :]
        mixed = tl.dot(weights.to(COMPUTE), v.to(COMPUTE), mixed * fade[:, None], input_precision="ieee")
        top = higher
    tl.store(out + ((token + t)[:, None] * HEADS + head) * DIM + d[None, :], mixed / total[:, None], mask=there)
