"""Attention over the slot cache, in shapes that depend on each sequence alone.

Every product here belongs to one sequence, and its shape is a function of that sequence's position. So neighbours,
batch size and slot cannot change a bit of it, on any processor: no kernel has to promise anything about batching.

Registered with transformers as an attention implementation; the step's layout arrives through the models' keyword
arguments. It does not know sampling, scheduling, or any particular model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from pipeline.engine.kv_cache import KVCache
from pipeline.errors import ModelRefused

IMPLEMENTATION = "promptmill_slots"
_UNSERVED = ("sliding_window", "softcap", "s_aux", "position_bias")
KV_BLOCK = 32
"""Decoding attends over a length rounded up to this: views change every 32 tokens, and products have even shapes."""


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """Tokens `first` to `first + length` of the step are positions `start` … of the sequence in `slot`."""

    first: int
    length: int
    slot: int
    start: int
    mask: torch.Tensor  # [length, length], True above the diagonal


@dataclass(frozen=True, slots=True)
class StepLayout:
    """Where each of a step's T tokens belongs. The first D tokens decode; chunks follow; padding may end the row.

    Attributes:
        cache: The cache to write to and read from.
        tokens: Number of real tokens.
        rows: [tokens · H_kv] where their keys and values go in every layer's cache.
        decode_slots: Slots of the D decoding tokens.
        decode_lengths: For each, its live length (position + 1) rounded up to KV_BLOCK.
        decode_mask: [D, 1, 1, max(decode_lengths)] True where there is nothing to attend to.
        chunks: The prefill chunks.
    """

    cache: KVCache
    tokens: int
    rows: torch.Tensor
    decode_slots: list[int]
    decode_lengths: list[int]
    decode_mask: torch.Tensor
    chunks: list[ChunkLayout]


def slot_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    layout: StepLayout,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of a step's tokens, each over its own sequence.

    Args:
        module: The attention layer; its `layer_idx` selects the cache.
        query: [1, H, T, D].
        key: [1, H_kv, T, D] of the step's own tokens, written to the cache first.
        value: Likewise.
        attention_mask: Unused: causality follows from the layout.
        layout: Where the tokens belong.
        scaling: Factor on the scores; null: 1 / sqrt(D).
        options: What else the model passes; what would change the result is refused.

    Returns:
        ([1, T, H, D], null), as transformers' attention functions do.

    Raises:
        ModelRefused: If the model attends in a way that is not served.
    """
    unserved = [name for name in _UNSERVED if options.get(name) is not None]
    if unserved:
        raise ModelRefused(
            f"{type(module).__name__}: attention with {unserved[0]} is not served; only full attention is"
        )
    _, heads, tokens, head_dim = query.shape
    kv_heads, real = key.shape[1], layout.tokens
    groups = heads // kv_heads
    layer = layout.cache.layers[module.layer_idx]  # type: ignore[index]
    layer.write(layout.rows, key[0, :, :real].transpose(0, 1), value[0, :, :real].transpose(0, 1))
    # [T, H_kv, G, D]: the queries that share a key head lie together
    q = (query[0].transpose(0, 1) * (head_dim**-0.5 if scaling is None else scaling)).view(tokens, kv_heads, groups, -1)
    out = query.new_zeros((tokens, kv_heads, groups, value.shape[-1]))
    if layout.decode_slots:
        _decode(layer_views=[layer.view(s, n) for s, n in zip(layout.decode_slots, layout.decode_lengths, strict=True)],
                q=q, out=out, mask=layout.decode_mask)  # fmt: skip
    for chunk in layout.chunks:
        rows = slice(chunk.first, chunk.first + chunk.length)
        keys, values = layer.keys[chunk.slot], layer.values[chunk.slot]
        stop = chunk.start + chunk.length
        chunk_q = q[rows].permute(1, 2, 0, 3).reshape(kv_heads, groups * chunk.length, head_dim)
        scores = torch.bmm(chunk_q, keys[:, :stop].transpose(-1, -2)).view(kv_heads, groups, chunk.length, stop)
        scores[..., chunk.start :].masked_fill_(chunk.mask, float("-inf"))
        weights = torch.softmax(scores, -1).view(kv_heads, groups * chunk.length, stop)
        mixed = torch.bmm(weights, values[:, :stop]).view(kv_heads, groups, chunk.length, -1)
        out[rows] = mixed.permute(2, 0, 1, 3)
    return out.view(1, tokens, heads, -1), None


def _decode(
    layer_views: list[tuple[torch.Tensor, torch.Tensor]], q: torch.Tensor, out: torch.Tensor, mask: torch.Tensor
) -> None:
    """One query a sequence. Softmax runs over all of them: its kernel treats rows apart, and masked tails add exact zeros."""
    count, width = len(layer_views), mask.shape[-1]
    scores = q.new_full((count, *q.shape[1:3], width), float("-inf"))
    for (keys, _), one, into in zip(layer_views, q[:count].unbind(0), scores.unbind(0), strict=True):
        torch.bmm(one, keys, out=into[..., : keys.shape[-1]])
    weights = torch.softmax(scores.masked_fill_(mask, float("-inf")), -1)
    for (_, values), one, into in zip(layer_views, weights.unbind(0), out[:count].unbind(0), strict=True):
        torch.bmm(one[..., : values.shape[-2]], values, out=into)


AttentionInterface.register(IMPLEMENTATION, slot_attention)
