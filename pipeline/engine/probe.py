"""Runs two tokens through a model to see that it attends as the engine will serve it, and refuses by name what does not.

A configuration does not tell it all: some models keep state outside their attention, share keys in ways of their own, or
look ahead. It does not know the cache; what is asked of the attention functions is written down, and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from pipeline.engine.linear import MIN_ROWS, PackedLinear
from pipeline.errors import ModelRefused

_RECORDER = "promptmill_recorder"
_Call = tuple[nn.Module, tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""The layer, and the shapes of its query, key and value."""


def check_attention(model: PreTrainedModel, *, layers: int, heads: int, kv_heads: int, head_dim: int) -> None:
    """Check that every layer attends once, backwards only, with queries, keys and values of the shapes that are expected.

    Args:
        model: The model as it will run, with its attention exchangeable.
        layers: Number of layers.
        heads: Query heads a layer.
        kv_heads: Key and value heads a layer.
        head_dim: Elements a head, of queries, keys and values alike.

    Raises:
        ModelRefused: If it does not.
    """
    calls = _recorded(model)
    kind = model.config.model_type
    if [getattr(layer, "layer_idx", None) for layer, *_ in calls] != list(range(layers)):
        raise ModelRefused(
            f"{kind}: attends {len(calls)} times in {layers} layers; only models that attend once in every layer are served"
        )
    query, key = ((1, n, MIN_ROWS, head_dim) for n in (heads, kv_heads))
    for layer, *shapes in calls:
        if shapes != [query, key, key]:
            told = ", ".join("x".join(str(n) for n in (shape[1], *shape[3:])) for shape in shapes)
            raise ModelRefused(
                f"{kind}: queries, keys and values of layer {layer.layer_idx} have {told} heads x elements, where its "
                f"configuration means {heads}x{head_dim}, {kv_heads}x{head_dim} and as many; that is not served"
            )
        if getattr(layer, "is_causal", True) is False:
            raise ModelRefused(
                f"{kind}: attends to tokens that follow; only decoder-only causal language models are served"
            )


@torch.inference_mode()
def _recorded(model: PreTrainedModel) -> list[_Call]:
    """Return what the attention functions of a forward pass are called with."""
    before = model.config._attn_implementation
    calls: list[_Call] = []
    AttentionInterface.register(_RECORDER, _record)
    model.set_attn_implementation(_RECORDER)
    ids = torch.zeros(1, MIN_ROWS, dtype=torch.long, device=model.device)
    try:
        positions = torch.arange(MIN_ROWS, device=model.device)[None]
        with _without_products(model):
            model(input_ids=ids, position_ids=positions, use_cache=False, layout=calls)
    except Exception as error:  # whatever a model's own code raises
        what = " ".join(str(error).split())[:200]
        raise ModelRefused(f"{model.config.model_type}: cannot be run as the engine runs models: {what}") from error
    finally:
        model.set_attn_implementation(before)
    return calls


@contextmanager
def _without_products(model: PreTrainedModel) -> Iterator[None]:
    """Let linear layers give zeros: only shapes are looked at, and to read all weights takes as long as half of loading."""
    layers = [module for module in model.modules() if isinstance(module, PackedLinear)]
    for layer in layers:
        layer.forward = layer.zeros  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _record(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *_: Any,
    layout: list[_Call] | None = None,
    **__: Any,
) -> tuple[torch.Tensor, None]:
    """Stand for an attention function."""
    if layout is None:
        raise ValueError("its attention is not handed the step's layout")
    layout.append((module, tuple(query.shape), tuple(key.shape), tuple(value.shape)))
    return value.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None
