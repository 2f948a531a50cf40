"""Values of a wrong type or size in the files of a model directory: one line that names file and key."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.engine.config import ModelConfig
from pipeline.engine.model.files.checkpoint import resolve
from pipeline.engine.model.files.facts import CONFIG, read_facts
from pipeline.errors import ModelRefused
from tests.engine.small.tiny_models import DEMO

BAD: list[tuple[str, str, Any]] = [
    ("config.json", "n_head", "four"), ("config.json", "n_head", 0), ("config.json", "n_layer", 1_000_000),
    ("config.json", "n_layer", -1), ("config.json", "n_embd", 16.5), ("config.json", "n_embd", True),
    ("config.json", "vocab_size", "1024"), ("config.json", "vocab_size", 10**12), ("config.json", "n_positions", 0),
    ("config.json", "model_type", ["gpt2"]), ("config.json", "model_type", {"a": 1}), ("config.json", "dtype", "float33"),
    ("config.json", "dtype", 32), ("config.json", "torch_dtype", ["float32"]), ("config.json", "architectures", "GPT2"),
    ("config.json", "auto_map", {"AutoModel": {"AutoModel": "x.Y"}}), ("config.json", "auto_map", "x.Y"),
    ("config.json", "eos_token_id", "</s>"), ("config.json", "eos_token_id", [1, "2"]),
    ("config.json", "layer_norm_epsilon", "1e-5"), ("config.json", "tie_word_embeddings", "yes"),
    ("config.json", "rope_parameters", [1]), ("config.json", "layer_types", "full_attention"),
    ("config.json", "text_config", "gpt2"), ("config.json", "rope_theta", float("nan")),
    ("config.json", "rope_theta", 10**400), ("generation_config.json", "temperature", -(10**400)),
    ("config.json", "num_key_value_heads", 0), ("config.json", "hidden_size", {}), ("config.json", "sliding_window", "4096"),
    ("generation_config.json", "eos_token_id", "0"), ("generation_config.json", "eos_token_id", {"id": 0}),
    ("generation_config.json", "temperature", "hot"), ("generation_config.json", "do_sample", 1),
    ("tokenizer_config.json", "tokenizer_class", 7), ("tokenizer_config.json", "model_max_length", "long"),
    ("tokenizer_config.json", "eos_token", 0), ("tokenizer_config.json", "add_bos_token", "no"),
    ("tokenizer_config.json", "added_tokens_decoder", [1]), ("tokenizer_config.json", "auto_map", {"a": {"b": "c"}}),
    ("model.safetensors.index.json", "weight_map", {"w": "pytorch_model.bin"}),
    ("model.safetensors.index.json", "weight_map", {"w": "../../model.safetensors"}),
    ("model.safetensors.index.json", "weight_map", {"w": 3}), ("model.safetensors.index.json", "weight_map", []),
    ("adapter_config.json", "r", "4"), ("adapter_config.json", "r", 0), ("adapter_config.json", "lora_alpha", "big"),
    ("adapter_config.json", "peft_type", ["LORA"]), ("adapter_config.json", "target_modules", {"a": 1}),
    ("adapter_config.json", "target_modules", [1]), ("adapter_config.json", "use_dora", "no"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A copy of the demo model, and an adapter beside it."""
    model = shutil.copytree(DEMO, tmp_path / "model")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").touch()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    yield model


def refusal(folder: Path) -> str:
    with pytest.raises(ModelRefused) as refused:
        resolve(ModelConfig(path=str(folder), adapter=str(folder.parent / "adapter")))
    line = str(refused.value)
    assert "\n" not in line and len(line) < 400 + len(str(folder))
    return line


@pytest.mark.parametrize(("file", "key", "value"), BAD, ids=str)
def test_fault_53_a_value_of_a_wrong_type_or_size_is_named_with_its_file(
    folder: Path, file: str, key: str, value: Any
) -> None:
    path = folder.parent / "adapter" / file if file.startswith("adapter") else folder / file
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**before, key: value}))
    assert refusal(folder).startswith(f"{path}: {key}=")


def test_a_nested_value_is_named_with_its_place(folder: Path) -> None:
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, "text_config": {"num_hidden_layers": "2"}}))
    assert "config.json: text_config.num_hidden_layers='2': must be a whole number from 1 to 2000" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n_head": 3}, "num_attention_heads=3: does not divide the hidden size"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "num_key_value_heads=3: does not divide"),
    ],
)
def test_heads_that_do_not_fit(folder: Path, changes: dict[str, int], told: str) -> None:
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, **changes}))
    assert told in refusal(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"]
)
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "{", "[]", "\x00", "3", '{"a": ' + "9" * 5000 + "}", "\ufeff{}"]
)
def test_files_of_another_form(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    assert refusal(folder).startswith(f"{folder / name}: ")


def test_what_is_not_text_and_what_is_too_large(folder: Path) -> None:
    (folder / "config.json").write_bytes(b'{"model_type": "\xff"}')
    assert "cannot be read" in refusal(folder)
    with (folder / "config.json").open("wb") as file:
        file.truncate(2**40)
    assert "is larger than 64 MiB" in refusal(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5,
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(sorted(CONFIG)), value=JSON)
def test_any_value_is_read_or_refused_in_one_line(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({key: value}))
    try:
        read_facts(path, CONFIG)
    except ModelRefused as refused:
        assert str(refused).startswith(f"{path}: ") and "\n" not in str(refused)
        assert key in str(refused)
