"""Attention over the KV cache, in shapes that depend on each sequence alone.

A prefill chunk is a product of its own, whose shape follows from its place in the prompt. Decoding sequences of one length
class share a batched product, a matrix a sequence and head, whose shape follows from the class. So neither neighbours nor
the batch's size change the shape of anything that a sequence's bits come from.

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


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """Tokens `first` to `first + length` of the step are positions `start` … of the sequence at `place`."""

    first: int
    length: int
    place: tuple[int, int]
    start: int
    mask: torch.Tensor  # [length, length], True above the diagonal


@dataclass(frozen=True, slots=True)
class DecodeLayout:
    """The decoding sequences of one length class: rows 0 to R of it, of which some may be dead.

    Attributes:
        number: The class.
        tokens: [R] the step's token for each row; any for a dead row.
        live: [L] the rows that are live and decode.
        live_tokens: [L] their tokens.
        mask: [R, 1, 1, capacity] True where there is nothing to attend to.
    """

    number: int
    tokens: torch.Tensor
    live: torch.Tensor
    live_tokens: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, slots=True)
class StepLayout:
    """Where each of a step's tokens belongs. Padding may follow the real tokens.

    Attributes:
        cache: The cache to write to and read from.
        tokens: Number of real tokens.
        rows: [tokens · H_kv] where their keys and values go in every layer's cache.
        decodes: The decoding sequences, by class.
        chunks: The prefill chunks.
    """

    cache: KVCache
    tokens: int
    rows: torch.Tensor
    decodes: list[DecodeLayout]
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
    for group in layout.decodes:
        live_keys, live_values = (side[group.number][: len(group.tokens)] for side in (layer.keys, layer.values))
        scores = torch.matmul(q[group.tokens], live_keys.transpose(-1, -2)).masked_fill_(group.mask, float("-inf"))
        mixed = torch.matmul(torch.softmax(scores, -1), live_values)
        out[group.live_tokens] = mixed[group.live]
    for chunk in layout.chunks:
        rows = slice(chunk.first, chunk.first + chunk.length)
        keys, values = (side[chunk.place[0]][chunk.place[1]] for side in (layer.keys, layer.values))
        stop = chunk.start + chunk.length
        chunk_q = q[rows].permute(1, 2, 0, 3).reshape(kv_heads, groups * chunk.length, head_dim)
        scores = torch.bmm(chunk_q, keys[:, :stop].transpose(-1, -2)).view(kv_heads, groups, chunk.length, stop)
        scores[..., chunk.start :].masked_fill_(chunk.mask, float("-inf"))
        weights = torch.softmax(scores, -1).view(kv_heads, groups * chunk.length, stop)
        mixed = torch.bmm(weights, values[:, :stop]).view(kv_heads, groups, chunk.length, -1)
        out[rows] = mixed.permute(2, 0, 1, 3)
    return out.view(1, tokens, heads, -1), None


def batching_keeps_bits(groups: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Check on this machine that the batched products of decoding give a matrix the same bits whatever the batch.

    Args:
        groups: Query heads that share a key head.
        head_dim: Elements a head.
        dtype: Type of the cache.
        device: Where it is.
    """
    draw = torch.Generator().manual_seed(0)
    for capacity in (64, 96, 256):
        keys, values = (torch.randn(12, capacity, head_dim, generator=draw).to(device, dtype) for _ in range(2))
        queries = torch.randn(12, groups, head_dim, generator=draw).to(device, dtype)
        scores = torch.matmul(queries, keys.transpose(-1, -2))
        mixed = torch.matmul(torch.softmax(scores, -1), values)
        for part in (slice(0, 1), slice(3, 5), slice(5, 12)):
            some = torch.matmul(queries[part], keys[part].transpose(-1, -2))
            if not torch.equal(some, scores[part]):
                return False
            if not torch.equal(torch.matmul(torch.softmax(some, -1), values[part]), mixed[part]):
                return False
    return True


AttentionInterface.register(IMPLEMENTATION, slot_attention)
