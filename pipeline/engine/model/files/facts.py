"""Reads the JSON files of a model directory, and checks the type and the size of each value.

It knows the form of these files, not which models are served.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ModelRefused
from pipeline.wording import brief

_MOST_BYTES = 64 * 2**20
_SHOWN = 60
Rule = tuple[Callable[[Any], bool], str]
"""A predicate on a value, and a description of valid values for messages."""


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: Any) -> bool:
    # a whole number may be too large for `math.isfinite`
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _are_ids(value: Any) -> bool:
    # -1 is what some checkpoints write for none
    return all(_is_whole(v, -1, 2**31) for v in (value if isinstance(value, list) else [value]))


def _is_code_map(value: Any) -> bool:
    def names(entry: Any) -> bool:
        return isinstance(entry, str) or (
            isinstance(entry, list) and all(n is None or isinstance(n, str) for n in entry)
        )

    return isinstance(value, dict) and all(names(entry) for entry in value.values())


def _whole(least: int, most: int) -> Rule:
    return lambda value: _is_whole(value, least, most), f"a whole number from {least} to {most}"


_TEXT: Rule = (lambda value: isinstance(value, str), "a text")
_FLAG: Rule = (lambda value: isinstance(value, bool), "true or false")
_TEXTS: Rule = (_are_texts, "a list of texts")
_TEXT_OR_TEXTS: Rule = (lambda value: isinstance(value, str) or _are_texts(value), "a text or a list of texts")
_MAPPING: Rule = (lambda value: isinstance(value, dict), "a mapping")
_NUMBER: Rule = (_is_number, "a finite number")
_POSITIVE: Rule = (lambda value: _is_number(value) and value > 0, "a number above 0")
_IDS: Rule = (_are_ids, "a token id or a list of them")
_TOKEN: Rule = (lambda value: isinstance(value, str | dict), "a text or a mapping")
_CODE: Rule = (_is_code_map, "a mapping of names to names")
_WIDTH = _whole(1, 2**20)
_WIDTHS: Rule = (
    lambda value: all(_is_whole(v, 0, 2**24) for v in (value if isinstance(value, list) else [value])),
    "a whole number or a list of them",
)  # fmt: skip
_TYPES = ("float32", "bfloat16", "float16", "float64", "auto")
_TYPE: Rule = (
    lambda value: isinstance(value, str) and value.removeprefix("torch.") in _TYPES,
    "one of " + ", ".join(_TYPES),
)  # fmt: skip
_SPECIAL: dict[str, Rule] = {"eos_token_id": _IDS, "bos_token_id": _IDS, "pad_token_id": _IDS}

CONFIG: dict[str, Rule] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), _whole(1, 2000)),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads"), _whole(1, 4096)),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "head_dim"), _WIDTH),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "moe_intermediate_size"), _WIDTHS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok"), _whole(0, 2**16)),
    **dict.fromkeys(
        ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "original_max_position_embeddings"),
        _whole(1, 2**31),
    ),
    **dict.fromkeys(("rope_parameters", "rope_scaling", "text_config", "vision_config", "quantization_config"), _MAPPING),
    **dict.fromkeys(("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_eps", "initializer_range"), _NUMBER),
    **dict.fromkeys(("is_encoder_decoder", "is_decoder", "tie_word_embeddings", "use_sliding_window", "use_cache"), _FLAG),
    **dict.fromkeys(("attention_bias", "mlp_bias", "scale_attn_weights", "add_cross_attention"), _FLAG),
    **dict.fromkeys(("model_type", "hidden_act", "activation_function", "hidden_activation"), _TEXT),
    **dict.fromkeys(("dtype", "torch_dtype"), _TYPE), **_SPECIAL, "rope_theta": _POSITIVE,
    "vocab_size": _whole(1, 2**26), "sliding_window": _whole(0, 2**31), "architectures": _TEXTS, "layer_types": _TEXTS,
    "auto_map": _CODE, "partial_rotary_factor": _POSITIVE, "rotary_pct": _POSITIVE,
}  # fmt: skip
GENERATION: dict[str, Rule] = {
    **_SPECIAL, **dict.fromkeys(("temperature", "top_p", "repetition_penalty", "min_p"), _NUMBER), "do_sample": _FLAG,
    **dict.fromkeys(("top_k", "max_length", "max_new_tokens", "min_length", "min_new_tokens"), _whole(0, 2**31)),
    **dict.fromkeys(("no_repeat_ngram_size", "num_beams", "num_return_sequences"), _whole(0, 2**31)),
    **dict.fromkeys(("suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"), _IDS),
    **dict.fromkeys(("typical_p", "guidance_scale", "epsilon_cutoff", "eta_cutoff"), _NUMBER), "stop_strings": _TEXT_OR_TEXTS,
}  # fmt: skip
TOKENIZER: dict[str, Rule] = {
    **dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"), _TOKEN),
    **dict.fromkeys(("add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces"), _FLAG),
    "tokenizer_class": _TEXT, "model_max_length": _POSITIVE, "added_tokens_decoder": _MAPPING, "auto_map": _CODE,
    "chat_template": (lambda value: isinstance(value, str | list | dict), "a text, a list or a mapping"),
    **dict.fromkeys(
        ("additional_special_tokens", "extra_special_tokens"),
        (lambda value: isinstance(value, list | dict), "a list or a mapping"),
    ),
}  # fmt: skip
ADAPTER: dict[str, Rule] = {
    "peft_type": _TEXT, "task_type": _TEXT, "base_model_name_or_path": _TEXT, "r": _whole(1, 2**16), "bias": _TEXT,
    "lora_alpha": _NUMBER, "lora_dropout": _NUMBER, "target_modules": _TEXT_OR_TEXTS, "modules_to_save": _TEXTS,
    "exclude_modules": _TEXT_OR_TEXTS, "layers_to_transform": _WIDTHS, "rank_pattern": _MAPPING, "alpha_pattern": _MAPPING,
    **dict.fromkeys(("use_rslora", "use_dora", "fan_in_fan_out", "inference_mode"), _FLAG),
}  # fmt: skip
INDEX: dict[str, Rule] = {
    "weight_map": (
        lambda value: isinstance(value, dict) and all(_is_weight_file(name) for name in value.values()),
        "a mapping of tensors to safetensors files in the same folder",
    ),
}  # fmt: skip


def _is_weight_file(name: Any) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def read_facts(path: Path, rules: Mapping[str, Rule]) -> dict[str, Any]:
    """Read a JSON file of a model directory, and check the values that have a rule; a null counts as missing.

    Raises:
        FileNotFoundError: If there is no such file.
        ModelRefused: If it cannot be read, or a value has a wrong type or size; the message names file and key.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ModelRefused(f"{path}: is larger than {_MOST_BYTES >> 20} MiB, so it is no such file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except RecursionError:
        raise ModelRefused(f"{path}: is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict):
        raise ModelRefused(f"{path}: is not a JSON object")
    _check(content, rules, str(path), "")
    return content


def _check(content: Mapping[str, Any], rules: Mapping[str, Rule], path: str, within: str) -> None:
    for key, (good, allowed) in rules.items():
        value = content.get(key)
        if value is not None and not good(value):
            raise ModelRefused(f"{path}: {within}{key}={brief(value, _SHOWN)}: must be {allowed}")
    if rules is CONFIG:
        if isinstance(nested := content.get("text_config"), dict):
            _check(nested, rules, path, f"{within}text_config.")
        _check_heads(content, path, within)


def _check_heads(content: Mapping[str, Any], path: str, within: str) -> None:
    """Check that heads and sizes of a layer are consistent."""
    heads = content.get("num_attention_heads") or content.get("n_head")
    width = content.get("hidden_size") or content.get("n_embd")
    keys = content.get("num_key_value_heads")
    if heads and width and not content.get("head_dim") and width % heads:
        raise ModelRefused(f"{path}: {within}num_attention_heads={heads}: does not divide the hidden size, {width}")
    if heads and keys and heads % keys:
        raise ModelRefused(f"{path}: {within}num_key_value_heads={keys}: does not divide num_attention_heads, {heads}")
