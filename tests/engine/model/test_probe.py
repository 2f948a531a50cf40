"""A model that attends in another way than the engine serves is refused by name when it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    DeepseekV3Config,
    DogeConfig,
    FalconConfig,
    Gemma2Config,
    MistralConfig,
    NemotronConfig,
    PreTrainedConfig,
    RecurrentGemmaConfig,
    RobertaConfig,
)

from pipeline.engine.config import ModelConfig
from pipeline.engine.layers.linear import PackedLinear
from pipeline.engine.model.files.checkpoint import Checkpoint, resolve
from pipeline.engine.model.load import load_model
from pipeline.engine.model.probe import check_attention
from pipeline.errors import ModelRefused
from tests.engine.small.tiny_models import CONTEXT, FAMILIES, Tiny, write_model

MakeTiny = Callable[..., Tiny]
SMALL: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT, "pad_token_id": None,
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_families_that_are_served_pass(tiny: MakeTiny, family: str) -> None:
    loaded = tiny(family).loaded()
    check_attention(loaded.model, layers=2, heads=4, kv_heads=loaded.kv_heads, head_dim=16, max_len=CONTEXT)
    assert loaded.model.config._attn_implementation == "promptmill_slots"


def test_no_weight_is_read_and_the_layers_multiply_again_afterwards(tiny: MakeTiny) -> None:
    """Shapes are all that is looked at. A model that is refused may be looked at once more, by other means."""
    model = tiny("llama").loaded().model
    products = {layer: layer._product for layer in model.modules() if isinstance(layer, PackedLinear)}
    try:
        for layer in products:
            layer._product = lambda _: pytest.fail("multiplied")
        check_attention(model, layers=2, heads=4, kv_heads=2, head_dim=16, max_len=CONTEXT)
        with pytest.raises(ModelRefused):
            check_attention(model, layers=3, heads=4, kv_heads=2, head_dim=16, max_len=CONTEXT)
        with pytest.raises(pytest.fail.Exception):
            next(iter(products))(torch.zeros(2, 64))
    finally:
        for layer, product in products.items():
            layer._product = product
    assert products


@pytest.mark.parametrize("other", [{"layers": 3}, {"heads": 8}, {"kv_heads": 1}, {"head_dim": 32}], ids=str)
def test_other_shapes_than_expected_are_refused(tiny: MakeTiny, other: dict[str, int]) -> None:
    with pytest.raises(ModelRefused, match="llama"):
        check_attention(
            tiny("llama").loaded().model,
            **{"layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "max_len": CONTEXT, **other},
        )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BertConfig(**SMALL), "bert: attends to later tokens"),
        (
            DeepseekV3Config(
                **SMALL, n_routed_experts=4, n_group=1, topk_group=1, num_experts_per_tok=2, kv_lora_rank=16,
                q_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=16, moe_intermediate_size=32,
                num_key_value_heads=4,
            ),
            "deepseek_v3: computes keys and values in a way of its own, .* of layer 0 have 4x24, 4x24, 4x16 heads x elements",
        ),
        (FalconConfig(**SMALL), "falcon does not let its attention be replaced"),
        (
            NemotronConfig(**SMALL, head_dim=16, num_key_value_heads=4),
            "nemotron: is not served: its layers cannot be run as the engine runs models: its attention is not handed",
        ),
        (RecurrentGemmaConfig(**SMALL), "recurrent_gemma: attends 0 times in 2 layers"),
        (DogeConfig(**SMALL), "doge: attends through a mask of its own"),
        (
            Gemma2Config(**SMALL, head_dim=16, num_key_value_heads=2, sliding_window=CONTEXT),
            "Gemma2Attention: attention with softcap is not served",
        ),
    ],
    ids=lambda value: value.model_type if isinstance(value, PreTrainedConfig) else "",
)  # fmt: skip
def test_models_that_attend_otherwise_are_refused_by_name(
    config: PreTrainedConfig, message: str, tmp_path: Path
) -> None:
    write_model(tmp_path, config, 1)
    settings = ModelConfig(path=str(tmp_path))
    with pytest.raises(ModelRefused, match=message) as refused:
        load_model(resolve(settings), settings)
    assert "\n" not in str(refused.value)


def test_positions_that_begin_behind_the_padding_are_found_when_a_model_is_loaded(tmp_path: Path) -> None:
    """`resolve` knows them by name; another model of that kind shows it in what it looks up."""
    write_model(tmp_path, RobertaConfig(**{**SMALL, "pad_token_id": 1}, is_decoder=True), 1)
    checkpoint = Checkpoint(tmp_path, tmp_path, None, {"model_type": "another", "max_position_embeddings": 64})
    with pytest.raises(ModelRefused, match="roberta: counts positions in a way of its own"):
        load_model(checkpoint, ModelConfig(path=str(tmp_path)))
    settings = ModelConfig(path=str(tmp_path))
    with pytest.raises(ModelRefused, match="roberta counts positions from its padding token on"):
        resolve(settings)


def test_a_window_is_served_up_to_its_length(tmp_path: Path) -> None:
    write_model(tmp_path, MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=40), 1)
    settings = ModelConfig(path=str(tmp_path))
    load_model(resolve(settings), settings, max_len=40)
    with pytest.raises(ModelRefused, match=r"its attention is full up to engine\.max_model_len=40"):
        load_model(resolve(settings), settings, max_len=41)
