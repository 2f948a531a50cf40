"""Loading: what is known of a model afterwards, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BloomConfig

from pipeline.engine import native
from pipeline.engine.config import ModelConfig
from pipeline.engine.model.files.checkpoint import resolve
from pipeline.engine.model.load import LoadedModel, _check_output, load_model, move, set_precision
from pipeline.errors import ModelRefused
from pipeline.machine import peak_bytes, reset_peak
from tests.engine.small.attention_cases import BUILT
from tests.engine.small.tiny_models import CONTEXT, DEMO, END, FAMILIES, Tiny, write_model

MakeTiny = Callable[..., Tiny]


def load(folder: Path, **options: Any) -> LoadedModel:
    config = ModelConfig(path=str(folder), **options)
    return load_model(resolve(config), config)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_known_of_a_model(tiny: MakeTiny, family: str) -> None:
    loaded = tiny(family).loaded()
    assert (loaded.layers, loaded.head_dim, loaded.vocab_size, loaded.context_length) == (2, 16, 320, CONTEXT)
    assert loaded.kv_heads == (2 if family in ("llama", "qwen2") else 4)
    assert (loaded.dtype, loaded.kv_dtype) == (torch.float32, torch.float32)
    assert loaded.attention == (f"native-{native.level()}" if BUILT else "torch")
    assert loaded.eos_token_ids == {END}
    assert loaded.batch_invariant
    assert sum(loaded.kernels.values()) > 8
    assert not loaded.model.training


def test_a_plain_model_is_left_alone(tiny: MakeTiny) -> None:
    plain = tiny().loaded(plain=True)
    assert (plain.kernels, plain.attention) == ({}, "")
    assert {type(m).__name__ for m in plain.model.modules()} >= {"Conv1D", "NewGELUActivation"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "auto"])
def test_types(tiny: MakeTiny, dtype: str) -> None:
    expected = {"auto": torch.float32}.get(dtype) or getattr(torch, dtype)
    assert load(tiny().folder, dtype=dtype).dtype == expected


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_model_that_changes_its_type_on_the_device_is_as_if_it_had_been_read_in_it(
    tiny: MakeTiny, family: str
) -> None:
    folder = tiny(family).folder
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    move(found, torch.device("cpu"), torch.bfloat16)
    assert found.dtype == found.config.dtype == torch.bfloat16
    for one, other in (
        (found.named_parameters, expected.named_parameters),
        (found.named_buffers, expected.named_buffers),
    ):
        mine, theirs = dict(one()), dict(other())
        assert mine.keys() == theirs.keys(), "what is tied stays so"
        assert all(mine[name].dtype == theirs[name].dtype for name in mine)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_what_an_architecture_wants_in_float32_stays_so(tiny: MakeTiny) -> None:
    for dtype, of_16_bits in ((torch.bfloat16, "wpe"), (torch.float16, "")):
        found = AutoModelForCausalLM.from_pretrained(tiny().folder, dtype=torch.float32)
        found._keep_in_fp32_modules, found._keep_in_fp32_modules_strict = ["wpe"], ["ln_f"]
        move(found, torch.device("cpu"), dtype)
        wide = {name.split(".")[1] for name, p in found.named_parameters() if p.dtype == torch.float32}
        assert wide == {"ln_f", "wpe"} - {of_16_bits}
    move(found, torch.device("cpu"), None)
    assert dict(found.named_parameters())["transformer.ln_f.weight"].dtype == torch.float32


def test_the_type_of_the_cache(tiny: MakeTiny) -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        assert load(tiny().folder, dtype=dtype).kv_dtype == getattr(torch, dtype)
        assert load(tiny().folder, dtype=dtype, kv_cache_dtype="bfloat16").kv_dtype == torch.bfloat16
    config = ModelConfig(path=str(tiny().folder), kv_cache_dtype="bfloat16")
    assert load_model(tiny().checkpoint, config, plain=True).kv_dtype == torch.float32, "transformers' own cache"


def test_end_tokens_come_from_the_generation_settings_first(tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO, tmp_path / "model")
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [3, 9]}))
    assert load(folder).eos_token_ids == {3, 9}
    (folder / "generation_config.json").unlink()
    assert load(folder).eos_token_ids == {0}


def test_files_that_do_not_fit_the_configuration_are_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO, tmp_path / "model")
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, "n_embd": 64}))
    with pytest.raises(ModelRefused, match="cannot be loaded") as refused:
        load(folder)
    assert "\n" not in str(refused.value)
    (folder / "config.json").write_text(json.dumps({**facts, "model_type": "no-such-thing"}))
    with pytest.raises(ModelRefused, match="cannot be loaded"):
        load(folder)


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"\xff" * 100, lambda b: b""])
def test_damaged_weights_are_refused(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    folder = shutil.copytree(DEMO, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(spoil(weights.read_bytes()))
    with pytest.raises(ModelRefused, match="cannot be loaded"):
        load(folder)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    """transformers would make random ones up."""
    folder = shutil.copytree(DEMO, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    removed = next(name for name in tensors if "h.2.mlp.c_fc.weight" in name)
    save_file({k: v for k, v in tensors.items() if k != removed}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelRefused):
        load(folder)


def test_a_model_whose_attention_cannot_be_exchanged_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, BloomConfig(vocab_size=320, hidden_size=64, n_layer=1, n_head=4), 1)
    with pytest.raises(ModelRefused):
        load(tmp_path)


def test_infinities_are_looked_for_without_a_copy_of_the_weight(tiny: MakeTiny) -> None:
    """A float64 copy of the output layer would be twice its size, while the model holds all of its weights."""
    weight = torch.ones(1 << 13, 1 << 12)
    model: Any = SimpleNamespace(get_output_embeddings=lambda: SimpleNamespace(weight=weight))
    if not reset_peak():
        pytest.skip("the system does not tell the peak of memory")
    before = peak_bytes()
    _check_output(model, tiny().checkpoint)
    assert peak_bytes() - before < weight.nbytes // 2


def test_a_processor_keeps_its_promise_whether_it_is_asked_for_or_not(caplog: pytest.LogCaptureFixture) -> None:
    config = ModelConfig(path=str(DEMO))
    asked, free = (load_model(resolve(config), config, deterministic=wanted) for wanted in (True, False))
    assert free.batch_invariant and free.kernels == asked.kernels
    assert not caplog.records


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_without_a_gpu_it_is_said_what_to_do() -> None:
    with pytest.raises(ModelRefused, match=r"sees no GPU here: .*, or leave out cluster\.gpus_per_replica") as refused:
        load_model(resolve(ModelConfig(path=str(DEMO))), ModelConfig(path=str(DEMO)), device="cuda")
    assert "\n" not in str(refused.value)


def test_int8_weights_are_refused_on_a_gpu() -> None:
    config = ModelConfig(path=str(DEMO), quantization="int8")
    with pytest.raises(ModelRefused, match=r"model\.kv_cache_dtype=int8 is what saves time"):
        load_model(resolve(config), config, device="cuda")


def test_a_gpu_multiplies_in_the_precision_that_was_asked_for() -> None:
    """Whatever was set before; the settings are there without a GPU, too."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        set_precision(tf32=True)
        assert matmul.fp32_precision == "tf32"
        set_precision(tf32=False)
        assert matmul.fp32_precision == "ieee"
        assert not matmul.allow_bf16_reduced_precision_reduction
        assert not matmul.allow_fp16_reduced_precision_reduction
    finally:
        matmul.fp32_precision = before
