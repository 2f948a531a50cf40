"""A checkpoint that is loaded in part is refused; tensors that older versions saved and that are computed are not missed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PhiConfig

from pipeline.engine.assembly import build_engine
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.model.files.checkpoint import resolve
from pipeline.engine.model.load import load_model
from pipeline.engine.model.whole import check_whole
from pipeline.errors import ModelRefused
from tests.engine.small.tiny_models import DEMO, FAMILIES, drain, request, write_model


def load(folder: Path) -> None:
    config = ModelConfig(path=str(folder))
    load_model(resolve(config), config)


def add(folder: Path, **tensors: torch.Tensor) -> None:
    weights = folder / "model.safetensors"
    save_file({**load_file(weights), **tensors}, weights, {"format": "pt"})


def test_fault_54_biases_that_the_configuration_has_no_place_for(tmp_path: Path) -> None:
    config = FAMILIES["llama"]()
    config.attention_bias = True
    write_model(tmp_path, config, 1)
    facts = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**facts, "attention_bias": False}))
    with pytest.raises(ModelRefused, match=r"no place for model\.layers\.0\.self_attn\.k_proj\.bias and 7 more"):
        load(tmp_path)


@pytest.mark.parametrize("change", [{"n_layer": 3}, {"n_layer": 5}, {"n_layer": 1}])
def test_layers_too_many_or_too_few(tmp_path: Path, change: dict[str, int]) -> None:
    folder = shutil.copytree(DEMO, tmp_path / "model")
    facts = json.loads((folder / "config.json").read_text())
    assert facts["n_layer"] == 4
    (folder / "config.json").write_text(json.dumps({**facts, **change}))
    with pytest.raises(
        ModelRefused, match="no place for" if change["n_layer"] < 4 else "n_layer=5: its weights have 4"
    ):
        load(folder)


@pytest.mark.parametrize("name", ["score.weight", "v_head.summary.weight", "transformer.h.0.attn.c_attn.qweight"])
def test_a_tensor_more(tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(DEMO, tmp_path / "model")
    add(folder, **{name: torch.ones(2, 2)})
    with pytest.raises(ModelRefused, match="no place for"):
        load(folder)


def test_masks_and_frequencies_of_older_versions_are_computed(tmp_path: Path) -> None:
    """As the published checkpoints of GPT-2, GPT-NeoX and the first Llama have them."""
    made: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
        "gpt2": lambda: {
            "transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8), "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)
        },
        "gpt_neox": lambda: {
            "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8),
            "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e4),
            "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(2),
        },
        "llama": lambda: {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)},
    }  # fmt: skip
    for family, tensors in made.items():
        write_model(tmp_path / family, FAMILIES[family](), 1)
        add(tmp_path / family, **tensors())
        load(tmp_path / family)


def test_a_bias_of_one_dimension_is_no_mask(tmp_path: Path) -> None:
    save_file({"h.0.attn.bias": torch.ones(8), "h.1.attn.bias": torch.ones(1, 1, 8, 8)}, tmp_path / "a.safetensors")
    report = {"missing_keys": set(), "mismatched_keys": set(), "unexpected_keys": {"h.0.attn.bias", "h.1.attn.bias"}}
    with pytest.raises(ModelRefused, match=r"no place for h\.0\.attn\.bias:"):
        check_whole(tmp_path, report)
    with pytest.raises(ModelRefused, match="w and 1 more has another shape"):
        check_whole(tmp_path, {**report, "mismatched_keys": {("w", (1,), (2,)), ("x", (1,), (2,))}})


def test_infinite_biases_of_the_vocabularys_padding_become_finite(tmp_path: Path) -> None:
    """transformers' `generate` takes them as a probability of 0."""
    write_model(tmp_path, PhiConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
    ), 1)  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    model.lm_head.bias.data[300:] = -torch.inf
    model.save_pretrained(tmp_path)
    config = ModelConfig(path=str(tmp_path))
    built = build_engine(
        resolve(config), config, EngineConfig(max_num_seqs="4"), StatsConfig(top_logprobs=3), threads=1
    )
    rows = [request(f"r{i}", [20, 33 + i], max_tokens=8, ignore_eos=True, temperature=float(i)) for i in range(4)]
    done = drain(built.engine, rows)
    assert all(c.error is None and max(c.token_ids) < 300 for c in done.values())
    with torch.inference_mode():
        ids = done["r0", 0].token_ids
        exact = (
            model(torch.tensor([[20, 33, *ids]])).logits[0].log_softmax(-1)[1:-1].gather(1, torch.tensor(ids)[:, None])
        )
    assert torch.allclose(torch.from_numpy(done["r0", 0].statistics["token_logprobs"]), exact[:, 0], atol=1e-5)
