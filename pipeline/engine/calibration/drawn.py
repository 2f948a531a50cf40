"""A model of a checkpoint's shape with random weights, and what can be counted of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import AutoConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from pipeline.engine.layers.attention import IMPLEMENTATION
from pipeline.engine.layers.linear import PackedLinear
from pipeline.engine.model.files.checkpoint import Checkpoint
from pipeline.engine.model.files.shape import shapes
from pipeline.engine.model.load import LoadedModel
from pipeline.errors import ModelRefused

_ALL_BYTES = 600 << 20
"""Weights of the layers up to which all layers are measured."""
_SOME_BYTES = 256 << 20
"""Otherwise as many layers as have that: far more than a processor's caches hold."""
_SPREAD = 2.5
"""Standard deviation of the logits, as trained models have it: it decides what truncation leaves."""


def layers_to_measure(checkpoint: Checkpoint) -> tuple[int, int]:
    """Return (layers of the model, how many of them are to be measured)."""
    layers = int(checkpoint.text.get("num_hidden_layers") or checkpoint.text.get("n_layer") or 1)
    sizes = [4 * math.prod(s) for name, s in shapes(checkpoint.directory).items() if ".0." in name.replace("/", ".")]
    one = max(1, sum(sizes))
    if layers * one <= _ALL_BYTES:
        return layers, layers
    return layers, min(layers, max(2, -(-_SOME_BYTES // one) // 2 * 2))


def drawn_model(checkpoint: Checkpoint, layers: int, dtype: str) -> PreTrainedModel:
    """Make a model of the checkpoint's shape, with random weights and so many layers.

    Raises:
        ModelRefused: If transformers cannot make it.
    """
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    shape = AutoConfig.from_pretrained(checkpoint.directory, local_files_only=True, trust_remote_code=False)
    text = shape.get_text_config()
    text.num_hidden_layers = layers
    for name in ("layer_types", "mlp_layer_types"):
        if isinstance(getattr(text, name, None), list):
            setattr(text, name, getattr(text, name)[:layers])
    try:
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            shape, dtype=getattr(torch, dtype), attn_implementation=IMPLEMENTATION
        )
    except MemoryError:
        raise
    except Exception as error:  # of whatever kind the model's code raises
        raise ModelRefused(f"{checkpoint.directory}: {' '.join(str(error).split())[:200]}") from error
    made: PreTrainedModel = model
    output: Any = made.get_output_embeddings()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        output.weight.normal_(std=_SPREAD / math.sqrt(output.weight.shape[1]))
    return made


def shorten(loaded: LoadedModel, layers: int) -> None:
    """Leave only the first layers of a model.

    Raises:
        ModelRefused: If it is not seen where they are.
    """
    text = loaded.model.config.get_text_config()
    for parent in loaded.model.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == text.num_hidden_layers:
                setattr(parent, name, child[:layers])
                text.num_hidden_layers = layers
                return
    raise ModelRefused(f"{loaded.model.config.model_type}: its layers are in no list")


def held_bytes(model: nn.Module) -> int:
    """Bytes of all tensors that a model holds, those of its packed products included."""
    tensors = [*model.parameters(), *model.buffers(), *(t for m in model.modules() for t in _inner(vars(m), 3))]
    return sum(dict(map(_memory, tensors)).values())


def _memory(tensor: torch.Tensor) -> tuple[int, int]:
    """Return what identifies a tensor's memory, and its bytes; oneDNN's packed weights do not show theirs."""
    if tensor.is_mkldnn:
        return id(tensor), tensor.numel() * tensor.element_size()
    storage = tensor.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def largest_bytes(model: nn.Module) -> int:
    """Bytes of the largest weight: it is held twice while it is packed or copied."""
    sizes = [p.numel() * p.element_size() for p in model.parameters()]
    return max(
        [*sizes, *(m.in_features * m.out_features * 4 for m in model.modules() if isinstance(m, PackedLinear))],
        default=0,
    )


def products(loaded: LoadedModel) -> tuple[list[PackedLinear], list[PackedLinear]]:
    """Return (the linear layers, the output layer: none if it is not one of these)."""
    output = loaded.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    found = [m for m in loaded.model.modules() if isinstance(m, PackedLinear)]
    return [m for m in found if m is not output], [m for m in found if m is output]


def _inner(fields: dict[str, Any], depth: int) -> Iterator[torch.Tensor]:
    for value in fields.values():
        if isinstance(value, torch.Tensor):
            yield value
        elif depth and type(value).__module__.startswith("pipeline.") and hasattr(value, "__dict__"):
            yield from _inner(vars(value), depth - 1)
