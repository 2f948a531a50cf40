"""Sizes in config.json that are beyond the weights beside it are refused before a model is built in memory."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from pipeline.engine.cache.memory import check_length
from pipeline.engine.config import ModelConfig
from pipeline.engine.model.files.checkpoint import resolve
from pipeline.engine.model.files.shape import check_sizes, shapes
from pipeline.errors import ModelRefused
from tests.engine.small.tiny_models import DEMO, FAMILIES, Tiny

MakeTiny = Callable[..., Tiny]
TWO = "2 layers at most (one that is used more than once is not served)"


def changed(model: Tiny, folder: Path, **values: Any) -> Path:
    shutil.copytree(model.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    return folder


@pytest.mark.parametrize(
    ("family", "key", "value", "told"),
    [
        ("gpt2", "n_embd", 40960, "no dimension above 320"), ("gpt2", "vocab_size", 10**7, "no dimension above 320"),
        ("gpt2", "n_positions", 10**8, "128 positions"), ("gpt2", "n_layer", 1000, TWO),
        ("gpt2", "n_inner", 2**24, "no dimension above 320"), ("llama", "hidden_size", 40960, "no dimension above 320"),
        ("llama", "num_hidden_layers", 3, TWO), ("llama", "head_dim", 2**20, "no dimension above 320"),
        ("llama", "num_attention_heads", 4096, "no dimension above 320"), 
        ("opt", "max_position_embeddings", 10**6, "130 positions"),
        ("gpt_neox", "intermediate_size", 10**6, "no dimension above 320"),
    ],
)  # fmt: skip
def test_a_size_beyond_the_weights_is_refused_with_file_and_key(
    tiny: MakeTiny, tmp_path: Path, family: str, key: str, value: int, told: str
) -> None:
    folder = changed(tiny(family), tmp_path / "m", **{key: value})
    with pytest.raises(ModelRefused) as refused:
        resolve(ModelConfig(path=str(folder)))
    assert str(refused.value).startswith(f"{folder / 'config.json'}: {key}={value}: its weights have {told}; see that ")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sizes_of_a_checkpoint_are_within_it(tiny: MakeTiny, family: str) -> None:
    check_sizes(tiny(family).folder, tiny(family).checkpoint.config)


def test_the_sizes_of_a_part_of_the_configuration(tiny: MakeTiny) -> None:
    with pytest.raises(ModelRefused, match=r"config\.json: text_config\.hidden_size=40960: "):
        check_sizes(tiny().folder, {"text_config": {"hidden_size": 40960}})


def test_a_number_of_experts_counts_where_there_are_any(tmp_path: Path, tiny: MakeTiny) -> None:
    check_sizes(tiny().folder, {"num_local_experts": 50_000})
    weights = {f"model.layers.0.mlp.experts.{i}.up_proj.weight": np.zeros((4, 8), np.float32) for i in range(12)}
    safetensors.numpy.save_file(weights, tmp_path / "model.safetensors")
    check_sizes(tmp_path, {"num_local_experts": 12})
    with pytest.raises(ModelRefused, match="num_local_experts=50000: its weights have 12 experts at most"):
        check_sizes(tmp_path, {"num_local_experts": 50_000})


def test_shapes_are_those_that_safetensors_tells() -> None:
    with safetensors.safe_open(DEMO / "model.safetensors", "np") as file:
        assert shapes(DEMO) == {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    "content",
    [b"", b"1234567", struct.pack("<Q", 2**62), struct.pack("<Q", 5) + b"[1,2]", struct.pack("<Q", 8) + b'{"a": 1}',
     struct.pack("<Q", 23) + b'{"a": {"shape": [1,"x"]}}'[:23] + b"}", struct.pack("<Q", 25) + b'{"a": {"shape": [1,"x"]}}',
     struct.pack("<Q", 100_000) + b"[" * 100_000],
)  # fmt: skip
def test_a_file_without_a_header_is_left_to_whoever_loads_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert shapes(tmp_path) == {}
    check_sizes(tmp_path, {"hidden_size": 10**6})


def test_a_context_that_no_memory_holds_is_refused() -> None:
    check_length(2**31, None, "config.json")
    check_length(131_072, 2**30, "config.json")
    with pytest.raises(
        ModelRefused, match=r"^c: n=5: one sequence of 2147483648 tokens needs 512 GiB at least, and 16\.00"
    ):
        check_length(2**31, 2**34, "c: n=5")


def test_a_context_that_the_weights_do_not_tell(tiny: MakeTiny, tmp_path: Path) -> None:
    folder = changed(tiny("llama"), tmp_path / "m", max_position_embeddings=2**31)
    found = resolve(ModelConfig(path=str(folder)))
    assert found.context_source == f"{folder}/config.json: max_position_embeddings={2**31}"
