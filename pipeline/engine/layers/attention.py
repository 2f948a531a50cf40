"""Attention over the KV cache, in arithmetic that depends on each sequence alone.

It is registered with transformers as an attention implementation. The step's layout arrives through the model's keyword
arguments and computes the attention: with a GPU's kernels (`gpu`), with the compiled kernel (`native`), or with torch's own
operations (`plain.attention`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn
from transformers.modeling_utils import AttentionInterface

from pipeline.engine import gpu, native
from pipeline.engine.cache.block_pool import BLOCK
from pipeline.engine.cache.kv_cache import KVCache, key_scales, side_shapes, value_scales
from pipeline.engine.gpu.attention import DeviceStep
from pipeline.engine.gpu.attention_check import kernels_are_right
from pipeline.engine.layers.verdicts import here
from pipeline.engine.native.attention import KINDS, NativeStep
from pipeline.engine.plain import attention as plain_attention
from pipeline.engine.plain.attention import Spot
from pipeline.errors import ModelRefused

IMPLEMENTATION = "promptmill_slots"
TRITON = "triton"
"""The attention kernel that steps of fixed shape need."""
_UNSERVED = ("softcap", "s_aux", "position_bias")
"""Options that change what attention computes. Sliding windows are checked when a model is loaded."""


class StepLayout(Protocol):
    """The sequence and position of each token of a step, with the attention for them. Padding may follow the real tokens."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Write the step's keys and values into a layer of the cache, then attend.

        Args:
            layer: The layer's index.
            query: [T, H, D].
            key: [T, H_kv, D].
            value: Likewise.
            scale: Factor on the scores.

        Returns:
            [T, H, D] in the type of `query`; rows of padding are finite.
        """


@dataclass(frozen=True, slots=True)
class NativeLayout:
    """A step for the compiled kernel."""

    cache: KVCache
    step: NativeStep

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Attend; see `StepLayout`."""
        q, k, v = (x.float() if x.stride(-1) == 1 else x.float().contiguous() for x in (query, key, value))
        return self.step.attend(q, k, v, self.cache.keys[layer], self.cache.values[layer], scale).to(query.dtype)


@dataclass(frozen=True, slots=True)
class TorchLayout:
    """A step for torch's own operations.

    Attributes:
        cache: The KV cache.
        spots: Runs of tokens of one sequence at successive positions of one block: one for each decoding sequence and chunk.
        tables: [R, W] int32: the block numbers of the sequences that `spots` speak of.
        places: [tokens] flat places of the real tokens in the cache, block · BLOCK + offset.
    """

    cache: KVCache
    spots: list[Spot]
    tables: torch.Tensor
    places: torch.Tensor

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Attend in float32, whatever the model's type; see `StepLayout`."""
        keys, values, tokens = self.cache.keys[layer], self.cache.values[layer], len(self.places)
        plain_attention.write(keys, values, self.places, key[:tokens], value[:tokens])
        # batched products in 16 bits depend on the batch, and rounding would hide that from a check
        grouped = (query.float() * scale).reshape(len(query), key.shape[1], -1, query.shape[-1])
        found = plain_attention.attend(grouped, keys, values, self.spots, self.tables)
        return found.view(query.shape).to(query.dtype)


@dataclass(frozen=True, slots=True)
class DeviceLayout:
    """A step of fixed shape for a GPU's kernels."""

    cache: KVCache
    step: DeviceStep

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Attend; see `StepLayout`."""
        return self.step.attend(query, key, value, self.cache.keys[layer], self.cache.values[layer], scale)


def step_layout(
    cache: KVCache, spots: list[Spot], tables: torch.Tensor, *, decodes: int = 0, compiled: bool
) -> StepLayout:
    """Describe a step.

    Args:
        cache: The KV cache.
        spots: Runs of tokens; see `TorchLayout`.
        tables: [R, W] int32 on the CPU.
        decodes: How many of the first spots decode: no block that they write is shared.
        compiled: Whether the compiled kernel computes it.
    """
    if compiled:
        begins = tables[:, 0].tolist()  # sequences that begin alike follow each other: the kernel reads that only once
        spots = sorted(spots[:decodes], key=lambda spot: begins[spot[3]]) + spots[decodes:]
        chunks = torch.tensor(spots, dtype=torch.int32)
        kv_heads = cache.keys[0].shape[1]
        return NativeLayout(cache, NativeStep(chunks, tables, kv_heads, cache.head_dim, cache.dtype, decodes))
    rows = torch.tensor([row for _, length, _, row in spots for _ in range(length)])
    positions = torch.tensor([p for _, length, start, _ in spots for p in range(start, start + length)])
    places = tables[rows, positions // BLOCK] * BLOCK + positions % BLOCK
    return TorchLayout(cache, spots, tables.to(cache.device), places.to(cache.device))


def refuse_unserved(module: nn.Module, options: Mapping[str, Any]) -> None:
    """Refuse options of an attention layer that would change the result.

    Raises:
        ModelRefused: If there is one.
    """
    unserved = [name for name in _UNSERVED if options.get(name) is not None]
    if unserved:
        raise ModelRefused(
            f"{type(module).__name__}: attention with {unserved[0]} is not served; only full attention is"
        )


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
        key: [1, H_kv, T, D] of the step's own tokens, written to the cache before any is read.
        value: Likewise.
        attention_mask: Unused: causality follows from the layout.
        layout: Where the tokens belong.
        scaling: Factor on the scores; None: 1 / sqrt(D).
        options: Other arguments from the model; those that would change the result are refused.

    Returns:
        ([1, T, H, D], None), as transformers' attention functions do.

    Raises:
        ModelRefused: If the model attends in a way that is not served.
    """
    refuse_unserved(module, options)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, heads, D]
    return layout.attend(module.layer_idx, q, k, v, scale)[None], None  # type: ignore[arg-type]


def choose(
    heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, kv_dtype: torch.dtype, device: torch.device
) -> tuple[str, bool]:
    """Return (name of the attention kernel to use here, whether a row's bits are the same in every batch).

    The names are `triton` on a GPU, `native-…` on a CPU, and `torch`.

    It depends on the machine and the installation only, not on timings, so replicas on equal machines agree.
    """
    groups = heads // kv_heads
    if gpu.serves(device) and kernels_are_right(heads, kv_heads, head_dim, dtype, kv_dtype, device):
        return TRITON, True
    if device.type != "cpu":
        return "torch", plain_attention.batching_keeps_bits(groups, kv_heads, head_dim, device)
    verdicts = here()
    asked = f"attention {groups}x{kv_heads}x{head_dim} {str(kv_dtype).removeprefix('torch.')}"
    plain = partial(plain_attention.batching_keeps_bits, groups, kv_heads, head_dim, device)
    compiled = partial(_native_is_right, groups, head_dim, kv_dtype)
    if kv_dtype in KINDS and verdicts.answer(f"compiled {asked}", compiled):
        way = f"native-{native.level()}", True
    else:
        way = "torch", verdicts.answer(f"torch {asked}", plain)
    verdicts.keep()
    return way


def _native_is_right(groups: int, head_dim: int, dtype: torch.dtype) -> bool:
    """Check the compiled kernel on this machine: correct up to rounding, same bits in a chunk, token by token and alone."""
    if native.library() is None:
        return False
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(40, 2 * groups, head_dim, generator=draw)
    k, v = (torch.randn(40, 2, head_dim, generator=draw) for _ in range(2))
    tables = torch.tensor([[3, 1], [0, 2]], dtype=torch.int32)
    sides = [torch.randn(4, *side, generator=draw) for side in side_shapes(2, head_dim, dtype)]
    if dtype == torch.int8:
        sides = [(side * 40).clamp(-127, 127) for side in sides]
    keys, values = (side.to(dtype) for side in sides)
    if dtype == torch.int8:
        key_scales(keys)[:] = value_scales(values)[:] = 0.03

    def run(spots: list[Spot]) -> torch.Tensor:
        step = NativeStep(torch.tensor(spots, dtype=torch.int32), tables, 2, head_dim, dtype)
        return step.attend(q, k, v, keys, values, head_dim**-0.5)

    chunks = [(0, 32, 0, 0), (32, 7, 32, 0), (39, 1, 17, 1)]
    whole = run(chunks)
    ones = run([(i, 1, i, 0) for i in range(39)] + [chunks[-1]])
    alone = torch.cat([run([(i, 1, i, 0)])[i : i + 1] for i in (0, 31, 32, 38)])
    grouped = (q * head_dim**-0.5).view(40, 2, groups, head_dim)
    expected = plain_attention.attend(grouped, keys, values, chunks, tables).view(whole.shape)
    same = torch.equal(whole, ones) and torch.equal(whole[[0, 31, 32, 38]], alone)
    return same and torch.allclose(whole, expected, rtol=1e-4, atol=1e-4)


AttentionInterface.register(IMPLEMENTATION, slot_attention)
