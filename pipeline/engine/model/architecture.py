"""Decides which models are served, as far as `config.json` shows it; the rest is checked when a model is loaded.

It reads no files and does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import ModelRefused
from pipeline.wording import brief

INSTEAD = (
    "docs/reference/families.md lists the families that are served, and transformers' own generate runs the others"
)
"""Advice for a user whose model is refused."""
_FULL = {"full_attention", "attention"}
_SLIDING = "sliding_attention"
_SHIFTED = frozenset({
    "camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
})  # fmt: skip
"""Model types whose positions start after the padding token's id. Loading would notice it, too, but later."""


def check_architecture(facts: Mapping[str, Any], path: str) -> None:
    """Refuse an architecture that the engine cannot serve, before any weight is read.

    Args:
        facts: The content of `config.json`.
        path: The model's name in messages.

    Raises:
        ModelRefused: If it cannot be served at any sequence length.
    """
    kind = facts.get("model_type", "unknown")
    if facts.get("auto_map") and not _is_known(kind):
        raise ModelRefused(
            f"{path}: needs code of its own (auto_map in config.json), which is never run, and transformers has no causal "
            f"language model {kind}; use a model that transformers has"
        )
    if facts.get("is_encoder_decoder"):
        raise ModelRefused(f"{path}: {kind} is an encoder-decoder; only decoder-only causal language models are served")
    if kind in _SHIFTED:
        raise ModelRefused(f"{path}: {kind} counts positions from its padding token on, which is not served; {INSTEAD}")
    text = {**facts, **(facts.get("text_config") or {})}
    kinds = set(text.get("layer_types") or ())
    other = sorted(kinds - _FULL - {_SLIDING})
    if other or (_SLIDING in kinds and not text.get("sliding_window")):
        raise ModelRefused(
            f"{path}: {kind} has layers of the kind {(other or [_SLIDING])[0]}; only full attention is served; {INSTEAD}"
        )
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    for one in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if one.get("rope_type", one.get("type")) in ("dynamic", "longrope"):
            raise ModelRefused(
                f"{path}: {kind} changes its rotary embedding with the length, which is not served; {INSTEAD}"
            )
    quantised = facts.get("quantization_config") or text.get("quantization_config")
    if quantised:
        raise ModelRefused(
            f"{path}: its weights are quantised (quant_method={brief(quantised.get('quant_method'), 40)}), which is not "
            "served; take the checkpoint that they were made from, with model.quantization=int8 if memory is short"
        )


def window(text: Mapping[str, Any]) -> int | None:
    """Return the size in tokens of the smallest attention window, the current token included; None: there is none.

    Args:
        text: The part of the configuration that is about the language model.
    """
    kinds = set(text.get("layer_types") or ())
    slides = _SLIDING in kinds if kinds else bool(text.get("use_sliding_window", True))
    return int(text["sliding_window"]) if slides and text.get("sliding_window") else None


def _is_known(kind: str) -> bool:
    """Whether transformers itself has a causal language model of this type, so that no code from the checkpoint is needed."""
    # Imported here: it takes seconds, and few configurations ask for it.
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
