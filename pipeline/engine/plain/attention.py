"""Attention over the blocked cache with torch's own operations, used where the compiled kernel cannot run.

A matrix product may round a row otherwise if the matrix has more rows. A token may be decoded or, when a generated text is
scored, read in a chunk, whose length may differ. So positions are divided into tiles of eight: a token's query is always in
the same row of a product of the same shape, with zeros for the tokens of its tile that are not in this step. Decoding
sequences with the same number of blocks share a batched product, with one matrix per sequence and head. The blocks of a
sequence are gathered first, which costs a copy.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence

import torch

from pipeline.engine.cache.block_pool import BLOCK, blocks_for
from pipeline.engine.cache.kv_cache import in_steps, key_scales, value_scales

Spot = tuple[int, int, int, int]
"""First token of the step, length, start position, row of the block tables."""

TILE = 8
"""Positions in a tile. More would be faster for prompts, and slower for tokens that are decoded, which are alone in theirs."""
_MOST = 1 << 24
"""Elements that the largest of the tensors has at most, if one sequence has not more."""


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
        first, length, start, row = spot
        if length == 1:
            decoding[blocks_for(start + 1)].append(spot)
            continue
        stop = start + length
        k, v = _read(keys, values, tables[row : row + 1, : blocks_for(stop)], torch.tensor([stop - 1]), q)
        edges = [start, *range(start // BLOCK * BLOCK + BLOCK, stop, BLOCK), stop]
        for begin, end in itertools.pairwise(edges):  # tiles in the same block see as many blocks
            piece = slice(first + begin - start, first + end - start)
            span, tiles = blocks_for(end) * BLOCK, (end - 1) // TILE - begin // TILE + 1
            positions = torch.arange(begin, end, device=q.device)
            seen = k[..., :span].expand(tiles, -1, -1, -1), v[..., :span, :].expand(tiles, -1, -1, -1)
            out[piece] = _attend(q[piece], *seen, positions, positions // TILE - begin // TILE)
    _, heads, groups, dim = q.shape
    for count, members in sorted(decoding.items()):
        together = max(1, _MOST // (count * BLOCK * heads * max(dim, groups * TILE)))
        for at in range(0, len(members), together):
            columns = zip(*members[at : at + together], strict=True)
            tokens, _, positions, rows = (torch.tensor(column, device=q.device) for column in columns)
            k, v = _read(keys, values, tables[rows, :count], positions, q)
            out[tokens] = _attend(q[tokens], k, v, positions, torch.arange(len(tokens), device=q.device))
    return out


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor, tiles: torch.Tensor
) -> torch.Tensor:
    """Attend with the queries of some tiles.

    Args:
        q: [N, H_kv, G, D].
        k: [B, H_kv, D, T], what each tile sees.
        v: [B, H_kv, T, D], where what no query may see is finite.
        positions: [N] of the queries.
        tiles: [N] the tile of each, below B; each tile has a query.

    Returns:
        [N, H_kv, G, D].
    """
    batch, (_, heads, groups, dim) = len(k), q.shape
    places, firsts = positions % TILE, positions.new_zeros(batch)
    firsts[tiles] = positions - places
    tile = q.new_zeros(batch, TILE, heads, groups, dim)
    tile[tiles, places] = q
    unseen = (
        torch.arange(k.shape[-1], device=q.device) > (firsts[:, None] + torch.arange(TILE, device=q.device))[..., None]
    )
    scores = _products(tile.permute(0, 2, 3, 1, 4).reshape(batch, heads, groups * TILE, dim), k)
    scores = scores.view(batch, heads, groups, TILE, -1).masked_fill_(unseen[:, None, None], float("-inf"))
    weights = torch.softmax(scores, -1).view(batch, heads, groups * TILE, -1)
    found = _products(weights, v).view(batch, heads, groups, TILE, dim).permute(0, 3, 1, 2, 4)
    return found[tiles, places]


def _read(
    keys: torch.Tensor, values: torch.Tensor, blocks: torch.Tensor, lasts: torch.Tensor, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys [B, H_kv, D, T] and values [B, H_kv, T, D] of blocks [B, W], in the type of `like`, whose last size is D.

    Values after the positions `lasts` [B] are zero: places that are not written may hold anything, and 0 · NaN would be NaN.
    """
    blocks, dim = blocks.long(), like.shape[-1]
    k, v = keys[blocks][..., :dim, :], values[blocks][..., :BLOCK, :dim]
    if keys.dtype == torch.int8:
        k, v = k * key_scales(keys)[blocks].unsqueeze(-2), v * value_scales(values)[blocks].unsqueeze(-1)
    k = k.permute(0, 2, 3, 1, 4).flatten(3).to(like.dtype)
    v = v.permute(0, 2, 1, 3, 4).flatten(2, 3).to(like.dtype)
    unwritten = torch.arange(v.shape[2], device=v.device) > lasts.to(v.device)[:, None]
    return k, v.masked_fill(unwritten[:, None, :, None], 0)


def _products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Batched matrix products. A lone one would be shared out among threads, with other rounding, so it is done twice."""
    if a.shape[0] * a.shape[1] > 1:
        return torch.matmul(a, b)
    return torch.matmul(torch.cat([a, a]), torch.cat([b, b]))[:1]


def batching_keeps_bits(groups: int, kv_heads: int, head_dim: int, device: torch.device) -> bool:
    """Check on this machine that the batched products, in float32, give a token the same bits in every batch and every cut.

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
        # twelve tokens of one sequence: read at once, in pieces, one by one
        start = count * BLOCK - 12
        at_once = attend(q, keys, values, [(0, 12, start, 0)], tables)
        for cut in ((0, 1, 12), (0, 5, 12), (0, 2, 9, 12), tuple(range(13))):
            pieces = [(a, b - a, start + a, 0) for a, b in itertools.pairwise(cut)]
            if not torch.equal(attend(q, keys, values, pieces, tables), at_once):
                return False
    return True
