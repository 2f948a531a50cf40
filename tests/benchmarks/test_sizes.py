from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig

from benchmarks.parts.arithmetic import Sizes, kv_bytes, limit_share, token_flops, weight_bytes, work_flops
from benchmarks.parts.sizes import linears

GPT2 = GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=500, n_positions=64)
LLAMA = LlamaConfig(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=500,
)
SIZES = Sizes(body=1000, head=100, others=10, kv_values=8)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_the_operations_are_those_that_torch_counts(config: PretrainedConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(config)
    prompt = 7
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.arange(prompt)[None], logits_to_keep=1)
    counted = counter.get_flop_counts()["Global"]
    products = sum(flops for name, flops in counted.items() if name in (torch.ops.aten.mm, torch.ops.aten.addmm))
    assert products == work_flops(linears(tmp_path).sizes, prompt_tokens=prompt, tokens=1, requests=1)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
def test_the_sizes_are_those_of_the_model(config: PretrainedConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(config)
    found = linears(tmp_path)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    shared = model.get_input_embeddings().weight.numel() if tied else 0
    sizes = found.sizes
    assert sizes.body + sizes.head + sizes.others == sum(p.numel() for p in model.parameters()) + shared
    cache = model(torch.zeros(1, 1, dtype=torch.long), use_cache=True).past_key_values
    assert sizes.kv_values == sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert found.shapes[-1] == (500, 64)


def test_a_token_costs_two_operations_a_weight() -> None:
    assert token_flops(SIZES) == 2200


def test_the_last_token_of_a_request_does_not_go_back() -> None:
    assert work_flops(SIZES, prompt_tokens=30, tokens=20, requests=2) == 2 * 1000 * 48 + 2 * 100 * 20


def test_the_share_of_the_limit() -> None:
    assert limit_share(SIZES, rate=22_000.0, tok_s=5.0) == pytest.approx(0.5)


def test_weights_in_bytes() -> None:
    assert weight_bytes(SIZES, "float32") == 4 * 1110
    assert weight_bytes(SIZES, "int8") == 1100 + 40


def test_keys_and_values_of_the_sequences_that_run_at_once() -> None:
    assert kv_bytes(SIZES, [5, 9, 7], batch=2) == (8 + 6) * 8 * 4
