"""The Triton kernel that finds the least logit that min-p, top-k and top-p keep in a row, without sorting.

One program reads a row as often as needed: it divides the range of the least logit into four, sums the weights above each
cut, and continues with one of the quarters, until all logits in it are equal.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pipeline.engine.gpu.sampler_kernels import (
    LAYOUT,
    LEAST,
    LOG2_E,
    LOWEST,
    MOST,
    ONE,
    below_top,
    key_of,
    read_tile,
    value_of,
    whole,
)


@triton.jit
def _masses(
    row, vocabulary, width, low, high, cut1, cut2, cut3, top, rate, WEIGHTED: tl.constexpr, UNIT: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """What lies from each of three keys up weighs, int64, and the least and the largest key in low..high.

    A lane adds its weights up in float32, always in the same order, and no sum falls where a cut is lower.
    """
    mass1 = tl.zeros([TILE], tl.float32)
    mass2 = tl.zeros([TILE], tl.float32)
    mass3 = tl.zeros([TILE], tl.float32)
    least = tl.full([TILE], MOST, tl.int32)
    most = tl.full([TILE], LEAST, tl.int32)
    for first in range(0, vocabulary, TILE):
        x = read_tile(row, first, vocabulary, width, UNIT, TILE)
        key = key_of(x)
        weights = tl.full([TILE], 1.0, tl.float32)
        if WEIGHTED:
            weights = tl.exp2(below_top(x, top) * rate)
        mass1 += tl.where(key >= cut1, weights, 0.0)
        mass2 += tl.where(key >= cut2, weights, 0.0)
        mass3 += tl.where(key >= cut3, weights, 0.0)
        inside = (key >= low) & (key <= high)
        least = tl.minimum(least, tl.where(inside, key, MOST))
        most = tl.maximum(most, tl.where(inside, key, LEAST))
    return (
        tl.sum(whole(mass1), 0), tl.sum(whole(mass2), 0), tl.sum(whole(mass3), 0), tl.min(least, 0), tl.max(most, 0)
    )  # fmt: skip


@triton.jit
def _reach(
    row, vocabulary, width, floor, bound, top, rate, WEIGHTED: tl.constexpr, UNIT: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """The largest key that reaches a bound together with all above it, or `floor` if none from there on does.

    The bound is a share of what lies from `floor` up, if WEIGHTED, or else a number of logits.
    """
    mass, _, _, low, high = _masses(
        row, vocabulary, width, floor, MOST, floor, floor, floor, top, rate, WEIGHTED, UNIT, TILE
    )  # fmt: skip
    bound *= ONE
    if WEIGHTED:
        bound *= mass.to(tl.float64) / ONE
    # now all from `low` up reaches it, and what is above `high` does not
    few = mass.to(tl.float64) <= bound
    high = tl.where(few, low, high)
    while low < high:
        bottom, peak = value_of(low), value_of(high)
        cut1 = tl.minimum(tl.maximum(key_of(bottom * 0.75 + peak * 0.25), low + 1), high)
        cut2 = tl.minimum(tl.maximum(key_of(bottom * 0.5 + peak * 0.5), cut1), high)
        cut3 = tl.minimum(tl.maximum(key_of(bottom * 0.25 + peak * 0.75), cut2), high)
        mass1, mass2, mass3, least, most = _masses(
            row, vocabulary, width, low, high, cut1, cut2, cut3, top, rate, WEIGHTED, UNIT, TILE
        )  # fmt: skip
        one, two, three = mass1 >= bound, mass2 >= bound, mass3 >= bound
        mass = tl.where(three, mass3, tl.where(two, mass2, tl.where(one, mass1, mass)))
        high = tl.where(three, high, tl.where(two, cut3 - 1, tl.where(one, cut2 - 1, cut1 - 1)))
        low = tl.where(three, cut3, tl.where(two, cut2, tl.where(one, cut1, low)))
        # nothing lies between cuts and the logits next to them; nor need a range be cut further that reaches the bound exactly
        low = tl.maximum(low, least)
        high = tl.where(mass.to(tl.float64) == bound, low, tl.maximum(tl.minimum(high, most), low))
    return tl.where(few, floor, low)


@triton.jit(do_not_specialize=LAYOUT)
def find_thresholds(
    logits, stride, vocabulary, width, greedy, temperature, top_p, log_min_p, top_k, thresholds, UNIT: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """The least logit, before temperature, that a row keeps; -inf where nothing is to be cut."""
    index = tl.program_id(0).to(tl.int64)
    row = logits + index * stride * UNIT
    share, margin, count = tl.load(top_p + index), tl.load(log_min_p + index), tl.load(top_k + index)
    cuts = (share < 1) | (margin > float("-inf")) | (count < vocabulary)
    threshold = float("-inf")
    if cuts & (tl.load(greedy + index).to(tl.int32) == 0):
        peaks = tl.full([TILE], float("-inf"), tl.float32)
        for first in range(0, vocabulary, TILE):
            peaks = tl.maximum(peaks, read_tile(row, first, vocabulary, width, UNIT, TILE))
        top = tl.max(peaks, 0)
        if tl.abs(top) < float("inf"):
            heat = tl.load(temperature + index)
            rate = LOG2_E / heat
            least = tl.maximum(key_of(top + margin * heat), LOWEST)
            if count < vocabulary:
                least = _reach(row, vocabulary, width, least, count.to(tl.float64), top, rate, False, UNIT, TILE)
            if share < 1:
                least = _reach(row, vocabulary, width, least, share.to(tl.float64), top, rate, True, UNIT, TILE)
            threshold = value_of(least)
    tl.store(thresholds + index, threshold)
