"""Samples tokens and computes the quantities of their statistics with GPU kernels; see `sampler_kernels.py`.

Nothing waits for the GPU, and no shape depends on a tensor's content. So all of it can be part of a CUDA graph, after it has
run outside of one, as the first call compiles. A row's bits depend on the row alone, because all sums are of whole numbers.
"""

from __future__ import annotations

from typing import Any

import torch

TILE = 4096
"""Logits that one program looks at. A power of 2."""
SCANNED = 2048
"""Logits that a row's program looks at together while it looks for a threshold: two such programs share a multiprocessor."""
DRAWN = 64
"""Up to so many most likely tokens are taken out of the tiles one by one; more of them are left to torch."""
_FUSED: dict[str, Any] = {"enable_fp_fusion": True}
"""Said at every launch, as newer versions of Triton warn where it is not."""


def choose_tokens(
    logits: torch.Tensor, greedy: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor, log_min_p: torch.Tensor,
    top_k: torch.Tensor, uniform: torch.Tensor, *, truncates: bool, all_greedy: bool, tile: int = TILE,
) -> torch.Tensor:  # fmt: skip
    """Choose a token for each row of float32 logits [B, V], by the rules of `SamplingRows`.

    Args:
        logits: Rows may lie apart. They are read quickest where that is a multiple of 4, padding included.
        greedy: Bool [B].
        temperature: Float32 [B].
        top_p: Float32 [B].
        log_min_p: Float32 [B].
        top_k: Int64 [B].
        uniform: Float64 [B].
        truncates: Whether any row has a top_p, log_min_p or top_k that is not off.
        all_greedy: Whether all rows are greedy.
        tile: Logits that one program looks at.

    Returns:
        Token ids int64 [B].
    """
    from pipeline.engine.gpu.sampler_kernels import choose, weigh_tiles

    logits, layout, unit = _layout(logits)
    rows, tiles = len(logits), _tiles(logits, tile)
    temperature, uniform, greedy = temperature.contiguous(), uniform.contiguous(), greedy.contiguous()
    truncates = truncates and not all_greedy
    thresholds = temperature  # not read where nothing is cut
    if truncates:
        thresholds = kept_from(logits, greedy, temperature, top_p, log_min_p, top_k, tile=min(tile, SCANNED))
    tops = torch.empty(rows, tiles, device=logits.device)
    ids = torch.empty_like(tops, dtype=torch.int32)
    sums = torch.empty_like(tops, dtype=torch.int64)
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    weigh_tiles[rows, tiles](
        logits, *layout, temperature, thresholds, tops, ids, sums, UNIT=unit, WEIGH=not all_greedy, CUT=truncates, TILE=tile,
        num_warps=8, **_FUSED,
    )  # fmt: skip
    choose[rows,](
        logits, *layout, greedy, temperature, uniform, thresholds, tops, ids, sums, tokens, tiles, UNIT=unit,
        GREEDY=all_greedy, CUT=truncates, TILES=_power_of_2(tiles), TILE=tile, num_warps=8, **_FUSED,
    )  # fmt: skip
    return tokens


def kept_from(
    logits: torch.Tensor, greedy: torch.Tensor, temperature: torch.Tensor, top_p: torch.Tensor, log_min_p: torch.Tensor,
    top_k: torch.Tensor, *, tile: int = SCANNED,
) -> torch.Tensor:  # fmt: skip
    """The least logit, before temperature, that is kept in each row [B]; a number below it may stand for it. See above."""
    from pipeline.engine.gpu.threshold_kernels import find_thresholds

    logits, layout, unit = _layout(logits)
    thresholds = torch.empty(len(logits), device=logits.device)
    rules = [t.contiguous() for t in (greedy, temperature, top_p, log_min_p, top_k)]
    find_thresholds[len(logits),](logits, *layout, *rules, thresholds, UNIT=unit, TILE=tile, num_warps=16, **_FUSED)
    return thresholds


def measure_tokens(logits: torch.Tensor, tokens: torch.Tensor, *, tile: int = TILE) -> tuple[torch.Tensor, ...]:
    """Measure rows of float32 logits [B, V] with a token [B] each.

    Returns:
        Five of [B]: the largest logit, the logarithm of the sum of exp(logit - largest), the entropy (nats), the token's rank
        (int32), whether every logit is finite (bool).
    """
    from pipeline.engine.gpu.sampler_kernels import measure, measure_tiles

    logits, layout, unit = _layout(logits)
    rows, tiles = len(logits), _tiles(logits, tile)
    tops = torch.empty(rows, tiles, device=logits.device)
    sums, products = torch.empty(2, rows, tiles, dtype=torch.int64, device=logits.device)
    larger, strange = torch.empty(2, rows, tiles, dtype=torch.int32, device=logits.device)
    measure_tiles[rows, tiles](
        logits, *layout, tokens.contiguous(), tops, sums, products, larger, strange, UNIT=unit, TILE=tile, num_warps=8,
        **_FUSED,
    )  # fmt: skip
    kinds = (torch.float32, torch.float32, torch.float32, torch.int32, torch.bool)
    found = tuple(torch.empty(rows, dtype=kind, device=logits.device) for kind in kinds)
    measure[rows,](
        tops, sums, products, larger, strange, *found, tiles, TILES=_power_of_2(tiles), num_warps=1, **_FUSED
    )  # fmt: skip
    return found


def top_tokens(logits: torch.Tensor, k: int, *, tile: int = TILE) -> tuple[torch.Tensor, torch.Tensor]:
    """The k most likely tokens of float32 logits [B, V]: (logits [B, k], ids int64 [B, k]), falling, ties by lowest id."""
    if k > DRAWN:
        return _sorted_tokens(logits, k)
    from pipeline.engine.gpu.sampler_kernels import best_of_rows, best_of_tiles

    logits, layout, unit = _layout(logits)
    rows, tiles = len(logits), _tiles(logits, tile)
    found = torch.empty(rows, tiles * k, dtype=torch.int64, device=logits.device)
    best_of_tiles[rows, tiles](logits, *layout, found, k, UNIT=unit, TILE=tile, num_warps=8, **_FUSED)
    values = torch.empty(rows, k, device=logits.device)
    ids = torch.empty_like(values, dtype=torch.int64)
    best_of_rows[rows,](
        logits, layout[0], found, tiles * k, k, values, ids, UNIT=unit, COUNT=_power_of_2(tiles * k), num_warps=4, **_FUSED
    )  # fmt: skip
    return values, ids


def _sorted_tokens(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As `top_tokens`, by torch: no two keys are the same, so it has no choice."""
    bits = (logits.masked_fill(logits.isnan(), -torch.inf) + 0.0).view(torch.int32)
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32
    keys -= torch.arange(logits.shape[-1], device=logits.device)
    # the lowest id leaves the number in the upper half as it is, the others borrow 1 from it
    ids = -keys.topk(k).values & 0x7FFFFFFF
    return logits.gather(-1, ids), ids


def _layout(logits: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int, int], int]:
    """The logits, (stride, vocabulary, width) and UNIT as the kernels take them."""
    assert logits.dtype == torch.float32
    rows, vocabulary = logits.shape
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    stride, width = logits.stride(0), vocabulary + -vocabulary % 4
    end = logits.storage_offset() + (rows - 1) * stride + width
    readable = end * logits.element_size() <= logits.untyped_storage().nbytes()
    if stride % 4 == 0 and logits.data_ptr() % 16 == 0 and readable:
        return logits, (stride // 4, vocabulary, width // 4), 4
    return logits, (stride, vocabulary, vocabulary), 1


def _tiles(logits: torch.Tensor, tile: int) -> int:
    return -(-logits.shape[-1] // tile)


def _power_of_2(count: int) -> int:
    return 1 << (count - 1).bit_length()
