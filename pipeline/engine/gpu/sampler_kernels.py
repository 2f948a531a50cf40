"""Triton kernels that compute tokens, and the quantities of their statistics, from logits.

Weights are exp(logit - largest), as whole numbers of `ONE`-ths. Sums of whole numbers are the same in every order, so no
bit depends on how a compiler lays a row out on threads. Rows are cut into tiles of TILE logits, and the tiles' results are
combined by one program per row. Rows of logits are `stride` * UNIT apart, and the first `width` * UNIT of each can be
read; UNIT is 4 where four logits can be read at once.
"""

from __future__ import annotations

import triton
import triton.language as tl

ONE = tl.constexpr(2.0**42)
"""Largest weight. The sum of 2 ** 20 of them fits 63 bits."""
LOG2_E = tl.constexpr(1.4426950408889634)
NONE = tl.constexpr(-(2**63))
"""Less than every key of `best_of_tiles`."""
MOST = tl.constexpr(2**31 - 1)
LEAST = tl.constexpr(-(2**31))
LOWEST = tl.constexpr(-2139095040)
"""The key of the least finite number."""


LAYOUT = ["stride", "vocabulary", "width"]
"""Arguments of which no value makes another program of a kernel, so that the one that was tried is the one that serves."""


@triton.jit
def read_tile(row, first, vocabulary, width, UNIT: tl.constexpr, TILE: tl.constexpr):
    """A tile of a row, float32 [TILE]; what is not a number, or past the end, is -inf."""
    at = first + tl.arange(0, TILE)
    x = tl.load(row + at, mask=at < width * UNIT, other=float("-inf"))
    return tl.where((at < vocabulary) & (x == x), x, float("-inf"))


@triton.jit
def below_top(x, top):
    """How far logits lie below the largest, at most 0 whatever they are."""
    return tl.minimum(x - tl.where(tl.abs(top) < float("inf"), top, 0.0), 0.0)


@triton.jit
def whole(weights):
    """Weights in 0..1 as whole numbers of `ONE`-ths, int64."""
    return (weights * ONE).to(tl.int64)


@triton.jit
def key_of(x):
    """Int32 in the order of float32; -0 is 0."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def value_of(key):
    """The float32 of a key."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _scales(tops, rate):
    """What a weight in each tile is in the row: exp((tile's largest - row's largest) * rate), float64."""
    return tl.exp(below_top(tops, tl.max(tops, 0)).to(tl.float64) * rate)


@triton.jit
def _at(values, place, i):
    """The value at place i of a vector."""
    return tl.sum(tl.where(place == i, values, 0), 0)


@triton.jit(do_not_specialize=LAYOUT)
def weigh_tiles(
    logits, stride, vocabulary, width, temperature, thresholds, tops, ids, sums, UNIT: tl.constexpr, WEIGH: tl.constexpr,
    CUT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Each tile's largest logit and its lowest id; if WEIGH, its sum of weights, if CUT of logits from the threshold up."""
    row, tile, tiles = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    x = read_tile(logits + row * stride * UNIT, tile * TILE, vocabulary, width, UNIT, TILE)
    top = tl.max(x, 0)
    at = tile * TILE + tl.arange(0, TILE)
    tl.store(tops + row * tiles + tile, top)
    tl.store(ids + row * tiles + tile, tl.min(tl.where(x == top, at, MOST), 0))
    if WEIGH:
        weights = tl.exp2(below_top(x, top) * (LOG2_E / tl.load(temperature + row)))
        if CUT:
            weights = tl.where(x >= tl.load(thresholds + row), weights, 0.0)
        tl.store(sums + row * tiles + tile, tl.sum(whole(weights), 0))


@triton.jit(do_not_specialize=[*LAYOUT, "tiles"])
def choose(
    logits, stride, vocabulary, width, greedy, temperature, uniform, thresholds, tops, ids, sums, tokens, tiles,
    UNIT: tl.constexpr, GREEDY: tl.constexpr, CUT: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The token of a row: the most likely, or the first whose running sum of weights is beyond uniform * their sum."""
    row, place = tl.program_id(0).to(tl.int64), tl.arange(0, TILES)
    mine = row * tiles + place
    peaks = tl.load(tops + mine, mask=place < tiles, other=float("-inf"))
    best = tl.load(ids + mine, mask=place < tiles, other=MOST)
    token = tl.min(tl.where(peaks == tl.max(peaks, 0), best, MOST), 0)
    if not GREEDY:
        within = tl.load(sums + mine, mask=place < tiles, other=0)
        heat = tl.load(temperature + row)
        scales = _scales(peaks, 1.0 / heat.to(tl.float64))
        shares = (within.to(tl.float64) * scales).to(tl.int64)
        total = tl.sum(shares, 0)
        if (total > 0) & (tl.load(greedy + row).to(tl.int32) == 0):
            target = tl.minimum((tl.load(uniform + row) * total.to(tl.float64)).to(tl.int64), total - 1)
            running = tl.cumsum(shares, 0)
            tile = tl.sum((running <= target).to(tl.int32), 0)
            rest = target - (_at(running, place, tile) - _at(shares, place, tile))
            x = read_tile(logits + row * stride * UNIT, tile * TILE, vocabulary, width, UNIT, TILE)
            weights = tl.exp2(below_top(x, tl.max(x, 0)) * (LOG2_E / heat))
            if CUT:
                weights = tl.where(x >= tl.load(thresholds + row), weights, 0.0)
            inside = tl.cumsum(whole(weights), 0)
            goal = tl.minimum((rest.to(tl.float64) / _at(scales, place, tile)).to(tl.int64), tl.max(inside, 0) - 1)
            token = tile * TILE + tl.sum((inside <= goal).to(tl.int32), 0)
    tl.store(tokens + row, token.to(tl.int64))


@triton.jit(do_not_specialize=LAYOUT)
def measure_tiles(
    logits, stride, vocabulary, width, tokens, tops, sums, products, larger, strange, UNIT: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """Each tile's largest logit, sum of weights, sum of weight * distance, and counts: above the token's, not finite."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    mine, start = row * tl.num_programs(1) + tile, logits + row * stride * UNIT
    x = read_tile(start, tile * TILE, vocabulary, width, UNIT, TILE)
    top = tl.max(x, 0)
    below = below_top(x, top)
    weights = tl.exp2(below * LOG2_E)
    tl.store(tops + mine, top)
    tl.store(sums + mine, tl.sum(whole(weights), 0))
    # a weight so far below is 0, and 0 * inf is not
    tl.store(products + mine, tl.sum(whole(weights * tl.maximum(below, -200.0)), 0))
    tl.store(larger + mine, tl.sum((x > tl.load(start + tl.load(tokens + row))).to(tl.int32), 0))
    real = tile * TILE + tl.arange(0, TILE) < vocabulary
    tl.store(strange + mine, tl.sum((real & (tl.abs(x) == float("inf"))).to(tl.int32), 0))


@triton.jit(do_not_specialize=["tiles"])
def measure(
    tops, sums, products, larger, strange, most, log_sum, entropy, rank, finite, tiles, TILES: tl.constexpr
):  # fmt: skip
    """A row's measures from those of its tiles."""
    row, place = tl.program_id(0), tl.arange(0, TILES)
    mine, there = row.to(tl.int64) * tiles + place, place < tiles
    peaks = tl.load(tops + mine, mask=there, other=float("-inf"))
    top = tl.max(peaks, 0)
    scales = _scales(peaks, 1.0)
    masses = tl.load(sums + mine, mask=there, other=0).to(tl.float64)
    # distances are from the tile's largest: those from the row's are greater by what lies between the two
    apart = tl.maximum(below_top(peaks, top), -200.0).to(tl.float64)
    moments = tl.load(products + mine, mask=there, other=0).to(tl.float64) + masses * apart
    total = tl.maximum(tl.sum((masses * scales).to(tl.int64), 0), 1).to(tl.float64)
    logarithm = tl.log(total / ONE)
    tl.store(most + row, top)
    tl.store(log_sum + row, logarithm.to(tl.float32))
    moment = tl.sum((moments * scales).to(tl.int64), 0).to(tl.float64)
    tl.store(entropy + row, (logarithm - moment / total).to(tl.float32))
    tl.store(rank + row, 1 + tl.sum(tl.load(larger + mine, mask=there, other=0), 0))
    tl.store(finite + row, tl.sum(tl.load(strange + mine, mask=there, other=0), 0) == 0)


@triton.jit(do_not_specialize=[*LAYOUT, "k"])
def best_of_tiles(
    logits, stride, vocabulary, width, found, k, UNIT: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """The k largest of each tile, falling, as keys in the order of logits, then of falling ids: 31 bits, all turned over."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tile * TILE + tl.arange(0, TILE)
    x = read_tile(logits + row * stride * UNIT, tile * TILE, vocabulary, width, UNIT, TILE)
    keys = tl.where(at < vocabulary, (key_of(x).to(tl.int64) << 32) | (at ^ MOST).to(tl.int64), NONE)
    mine = found + (row * tl.num_programs(1) + tile) * k
    for i in range(k):
        best = tl.max(keys, 0)
        tl.store(mine + i, best)
        keys = tl.where(keys == best, NONE, keys)


@triton.jit(do_not_specialize=["stride", "count", "k"])
def best_of_rows(logits, stride, found, count, k, values, ids, UNIT: tl.constexpr, COUNT: tl.constexpr):
    """The k largest of a row from the `count` keys that its tiles found, with their logits."""
    row, place = tl.program_id(0).to(tl.int64), tl.arange(0, COUNT)
    keys = tl.load(found + row * count + place, mask=place < count, other=NONE)
    for i in range(k):
        best = tl.max(keys, 0)
        at = (best & MOST) ^ MOST
        tl.store(ids + row * k + i, at)
        tl.store(values + row * k + i, tl.load(logits + row * stride * UNIT + at))
        keys = tl.where(keys == best, NONE, keys)
