"""Attention over the blocked cache with torch's own operations, used where the compiled kernel cannot run.

Decoding sequences with the same number of blocks share a batched product, with one matrix per sequence and head, whose shape
depends on the sequence's own length. A prompt's chunk is a separate product. So no shape that a sequence's bits depend on
changes with its neighbours or the batch's size. The blocks of a sequence are gathered first, which costs a copy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from pipeline.engine.cache.block_pool import BLOCK, blocks_for
from pipeline.engine.cache.kv_cache import in_steps, key_scales, value_scales

Spot = tuple[int, int, int, int]
"""First token of the step, length, start position, row of the block tables."""


def write(keys: torch.Tensor, values: torch.Tensor, places: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Put k and v [T, H_kv, D] at the flat `places` [T]: block · BLOCK + offset."""
    blocks, offsets, dim = places // BLOCK, places % BLOCK, k.shape[-1]
    if keys.dtype == torch.int8:
        (k, k_scales), (v, v_scales) = in_steps(k.float()), in_steps(v.float())
        key_scales(keys)[blocks, :, offsets] = k_scales
        value_scales(values)[blocks, :, offsets] = v_scales
    keys[blocks, :, :dim, offsets] = k.to(keys.dtype)
    values[blocks, :, offsets, :dim] = v.to(values.dtype)


def attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, spots: Sequence[Spot], tables: torch.Tensor
) -> torch.Tensor:
    """Attend with scaled queries.

    Args:
        q: [T, H_kv, G, D]: the queries that share a key head lie together.
        keys: A layer's, as `KVCache` has them.
        values: Likewise.
        spots: Where the tokens belong; those of one token decode.
        tables: [R, W] block numbers.

    Returns:
        [T, H_kv, G, D]; zero where no spot is.
    """
    out = torch.zeros_like(q)
    decoding: dict[int, list[Spot]] = defaultdict(list)
    for spot in spots:
        if spot[1] == 1:
            decoding[blocks_for(spot[2] + 1)].append(spot)
            continue
        first, length, start, row = spot
        found = _attend(q[first : first + length][None], keys, values, tables[row : row + 1], start, length)
        out[first : first + length] = found[0]
    for count, members in sorted(decoding.items()):
        tokens, starts, rows = (torch.tensor([m[i] for m in members], device=q.device) for i in (0, 2, 3))
        out[tokens] = _attend(q[tokens][:, None], keys, values, tables[rows, :count], starts[:, None, None], 1)[:, 0]
    return out


def _attend(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: torch.Tensor,
    start: int | torch.Tensor,
    length: int,
) -> torch.Tensor:
    """Queries [B, length, H_kv, G, D] at positions `start` … over the blocks of `tables` [B, W]."""
    batch, _, heads, groups, dim = q.shape
    count = tables.shape[1] if isinstance(start, torch.Tensor) else blocks_for(start + length)
    blocks = tables[:, :count].long()
    k, v = _read(keys, values, blocks, dim)
    k = k.permute(0, 2, 3, 1, 4).reshape(batch, heads, dim, -1).to(q.dtype)
    v = v.permute(0, 2, 1, 3, 4).reshape(batch, heads, -1, dim).to(q.dtype)
    span = torch.arange(count * BLOCK, device=q.device)
    position = start + torch.arange(length, device=q.device)[:, None]
    mask = (span > position).expand(batch, length, -1)
    # a block's unwritten places may hold anything, and 0 · NaN would be NaN
    v = v.masked_fill(mask[:, -1, :, None].unsqueeze(1), 0)
    scores = _products(q.permute(0, 2, 3, 1, 4).reshape(batch, heads, groups * length, dim), k)
    scores = scores.view(batch, heads, groups, length, -1).masked_fill_(mask[:, None, None], float("-inf"))
    weights = torch.softmax(scores, -1).view(batch, heads, groups * length, -1)
    return _products(weights, v).view(batch, heads, groups, length, dim).permute(0, 3, 1, 2, 4)


def _read(
    keys: torch.Tensor, values: torch.Tensor, blocks: torch.Tensor, dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys [B, W, H_kv, D, BLOCK] and values [B, W, H_kv, BLOCK, D] of blocks [B, W]."""
    k, v = keys[blocks][..., :dim, :], values[blocks][..., :BLOCK, :dim]
    if keys.dtype != torch.int8:
        return k, v
    return k * key_scales(keys)[blocks].unsqueeze(-2), v * value_scales(values)[blocks].unsqueeze(-1)


def _products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Batched matrix products. A lone one would be shared out among threads, with other rounding, so it is done twice."""
    if a.shape[0] * a.shape[1] > 1:
        return torch.matmul(a, b)
    return torch.matmul(torch.cat([a, a]), torch.cat([b, b]))[:1]


def batching_keeps_bits(groups: int, kv_heads: int, head_dim: int, device: torch.device) -> bool:
    """Check on this machine that the batched products of decoding, in float32, give a matrix the same bits whatever the batch.

    Args:
        groups: Query heads that share a key head.
        kv_heads: Key heads.
        head_dim: Elements a head.
        device: Where they are.
    """
    draw = torch.Generator().manual_seed(0)
    for count in (1, 2, 3, 8):
        blocks = 12 * count
        keys = torch.randn(blocks, kv_heads, head_dim, BLOCK, generator=draw).to(device)
        values = torch.randn(blocks, kv_heads, BLOCK, head_dim, generator=draw).to(device)
        q = torch.randn(12, kv_heads, groups, head_dim, generator=draw).to(device)
        tables = torch.randperm(blocks, generator=draw).view(12, count).to(device)
        spots = [(i, 1, count * BLOCK - 1 - i, i) for i in range(12)]
        whole = attend(q, keys, values, spots, tables)
        for part in (spots[:1], spots[3:5], spots[5:]):
            rows = [s[0] for s in part]
            if not torch.equal(attend(q, keys, values, part, tables)[rows], whole[rows]):
                return False
    return True
