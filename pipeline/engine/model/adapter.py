"""Merges a PEFT adapter into a model's weights, and checks that it is complete, fits, and has the same effect merged."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.modeling_utils import PreTrainedModel

from pipeline.engine.model.files.checkpoint import ADAPTER_WEIGHTS
from pipeline.errors import ModelRefused
from pipeline.wording import one_line

_TOKENS = 8
"""Tokens on which the adapted and the merged model are compared."""
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_ROUGH = 0.2
"""Largest allowed difference of logits, relative to the largest logit. In 16 bits, the sum of two weights is rounded."""


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Add an adapter's weights into the model's own.

    Args:
        model: The model, on a processor.
        folder: The adapter's folder.

    Raises:
        ModelRefused: If peft is not installed, if a tensor of the adapter has no counterpart in the model, or
            if the merged model's logits differ from those of the model with the adapter attached.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError:
        raise ModelRefused("model.adapter: needs the peft package: pip install peft") from None
    if torch.distributed.is_available():  # peft uses it, and leaves its import to transformers; here, that does without
        importlib.import_module("torch.distributed.tensor")
    saved = load_file(folder / ADAPTER_WEIGHTS)
    _untie(model, saved)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of peft about transformers: a user can do nothing about it
            adapted: Any = PeftModel.from_pretrained(model, str(folder)).eval()
        _check_whole(folder, saved, get_peft_model_state_dict(adapted), adapted.state_dict())
        before = _logits(adapted, model)
        merged = adapted.merge_and_unload()
        after = _logits(merged, model)
    except ModelRefused:
        raise
    except Exception as error:  # of whatever kind; peft's own checks raise many
        raise ModelRefused(f"{folder}: the adapter does not fit the model: {one_line(error)}") from error
    off = float((after - before).abs().max() / before.abs().max().clamp(min=1e-6))
    if not off <= _TOLERANCE.get(model.dtype, _ROUGH):  # nor if it is no number
        raise ModelRefused(
            f"{folder}: merging the adapter into the model's weights changes its effect (logits "
            f"{off:.0%} off); only adapters that can be merged are served"
        )
    return merged  # type: ignore[no-any-return]


def _untie(model: PreTrainedModel, saved: dict[str, Any]) -> None:
    """Untie output layer and embedding, if they share a tensor and the adapter changes one of them."""
    inputs: Any = model.get_input_embeddings()
    outputs: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if outputs is None or inputs.weight is not outputs.weight:
        return
    names = [name for name, module in model.named_modules() if module is inputs or module is outputs]
    if any(f".{name}." in key for key in saved for name in names):
        outputs.weight = torch.nn.Parameter(outputs.weight.detach().clone(), requires_grad=False)
        whole: Any = model.config
        whole.tie_word_embeddings = whole.get_text_config().tie_word_embeddings = False


def _check_whole(folder: Path, saved: dict[str, Any], loaded: dict[str, Any], everything: dict[str, Any]) -> None:
    """Check that every tensor of the file was loaded unchanged, and that the adapter has no tensor beside them."""
    for name, tensor in saved.items():
        place = loaded.get(name, everything.get(name))
        if place is None:
            raise ModelRefused(f"{folder}: {name} fits no layer of the model: it is an adapter of another one")
        if place.shape != tensor.shape or not torch.equal(place.float().cpu(), tensor.to(place.dtype).float()):
            raise ModelRefused(f"{folder}: {name} cannot be loaded as it was saved: it is an adapter of another model")
    lacking = sorted(loaded.keys() - saved.keys())
    if lacking:
        raise ModelRefused(f"{folder}: the adapter lacks {lacking[0]}, which its adapter_config.json asks for")


@torch.inference_mode()
def _logits(model: Any, base: PreTrainedModel) -> torch.Tensor:
    """Return float32 logits [T, V] of a few tokens, as transformers computes them."""
    before = base.config._attn_implementation
    base.set_attn_implementation("eager")
    vocab_size = base.config.get_text_config().vocab_size
    try:
        # From all over the vocabulary. The first ids often stand for special tokens, which after each other make activations so
        # large that in 16 bits the logits are chaotic.
        ids = torch.arange(1, _TOKENS + 1)[None] * vocab_size // (_TOKENS + 1)
        return model(input_ids=ids, use_cache=False).logits[0].float()  # type: ignore[no-any-return]
    finally:
        base.set_attn_implementation(before)
