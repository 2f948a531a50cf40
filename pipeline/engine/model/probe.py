"""Runs two tokens through a model to check that the engine can serve its attention, and refuses a model that it cannot.

A configuration does not show everything: some models keep state outside their attention, share keys in special ways, or
look ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_utils import AttentionInterface, PreTrainedModel

from pipeline.engine.layers.attention import refuse_unserved
from pipeline.engine.layers.linear import MIN_ROWS, PackedLinear
from pipeline.engine.model.architecture import INSTEAD
from pipeline.errors import ModelRefused

_RECORDER = "promptmill_recorder"


@dataclass(frozen=True, slots=True)
class _Call:
    """The arguments of a call of an attention function: layer, shapes of query, key and value, and options."""

    layer: nn.Module
    shapes: tuple[tuple[int, ...], ...]
    window: int | None
    masked: bool


def check_attention(
    model: PreTrainedModel, *, layers: int, heads: int, kv_heads: int, head_dim: int, max_len: int
) -> None:
    """Check that every layer attends exactly once, to all previous positions, with the expected shapes.

    Args:
        model: The model as it will run, with replaceable attention.
        layers: Number of layers.
        heads: Query heads per layer.
        kv_heads: Key and value heads per layer.
        head_dim: Elements per head, the same for queries, keys and values.
        max_len: Longest sequence that will be run.

    Raises:
        ModelRefused: If it does not.
    """
    calls = _recorded(model)
    kind = model.config.model_type
    if [getattr(call.layer, "layer_idx", None) for call in calls] != list(range(layers)):
        raise ModelRefused(
            f"{kind}: attends {len(calls)} times in {layers} layers; only models that attend once in every layer "
            f"are served; {INSTEAD}"
        )
    query, key = ((1, n, MIN_ROWS, head_dim) for n in (heads, kv_heads))
    for call in calls:
        if call.shapes != (query, key, key):
            told = ", ".join("x".join(str(n) for n in (shape[1], *shape[3:])) for shape in call.shapes)
            raise ModelRefused(
                f"{kind}: computes keys and values in a way of its own, which is not served: queries, keys and values of layer "
                f"{call.layer.layer_idx} have {told} heads x elements, where its configuration means {heads}x{head_dim}, "
                f"{kv_heads}x{head_dim} and as many; {INSTEAD}"
            )
        if getattr(call.layer, "is_causal", True) is False:
            raise ModelRefused(f"{kind}: attends to later tokens; only decoder-only causal language models are served")
        if call.window is not None and call.window < max_len:
            raise ModelRefused(
                f"{kind}: layer {call.layer.layer_idx} attends through a sliding window, and only full attention is "
                f"served; its attention is full up to engine.max_model_len={call.window}"
            )
        if call.masked:
            raise ModelRefused(
                f"{kind}: attends through a mask of its own, beyond causality; only full attention is served; {INSTEAD}"
            )


@torch.inference_mode()
def _recorded(model: PreTrainedModel) -> list[_Call]:
    """Return the calls of attention functions in a forward pass."""
    before = model.config._attn_implementation
    calls: list[_Call] = []
    AttentionInterface.register(_RECORDER, _record)
    model.set_attn_implementation(_RECORDER)
    ids = torch.zeros(1, MIN_ROWS, dtype=torch.long, device=model.device)
    given, own = _Lookups(), _Lookups()
    try:
        positions = torch.arange(MIN_ROWS, device=model.device)[None]
        with _without_products(model):
            with own:
                model(input_ids=ids, use_cache=False, layout=[])
            with given:
                model(input_ids=ids, position_ids=positions, use_cache=False, layout=calls)
    except ModelRefused:
        raise
    except Exception as error:  # whatever a model's own code raises
        what = " ".join(str(error).split())[:200]
        raise ModelRefused(
            f"{model.config.model_type}: is not served: its layers cannot be run as the engine runs models: {what}; {INSTEAD}"
        ) from error
    finally:
        model.set_attn_implementation(before)
    if given.rows != own.rows:
        raise ModelRefused(
            f"{model.config.model_type}: counts positions in a way of its own, which is not served; {INSTEAD}"
        )
    return calls


class _Lookups(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records which rows of embeddings are read."""

    def __init__(self) -> None:
        """Start with none."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.rows: list[list[int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Record the indices of a lookup, and compute it as usual."""
        if func is torch.ops.aten.embedding.default:
            self.rows.append(args[1].flatten().tolist())
        return func(*args, **(kwargs or {}))


@contextmanager
def _without_products(model: PreTrainedModel) -> Iterator[None]:
    """Make linear layers return zeros: only shapes matter, and reading all weights would take half as long as loading."""
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
    attention_mask: torch.Tensor | None = None,
    *_: Any,
    layout: list[_Call] | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Act as an attention function that records its call."""
    if layout is None:
        raise ValueError("its attention is not handed the step's layout")
    refuse_unserved(module, options)
    shapes = tuple(tuple(x.shape) for x in (query, key, value))
    layout.append(_Call(module, shapes, sliding_window, attention_mask is not None))
    return value.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None
