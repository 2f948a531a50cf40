"""Where a model comes from, and tokenizers that do not fit their weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.config import ModelConfig
from pipeline.engine.model.files.checkpoint import Checkpoint, resolve
from pipeline.engine.model.files.provenance import misfits, provenance
from tests.engine.small.tiny_models import Tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def model(tiny: Callable[..., Tiny], tmp_path: Path) -> Path:
    """A model as the hub's cache has it."""
    return shutil.copytree(tiny().folder, tmp_path / "models--a--b" / "snapshots" / COMMIT)


def found(folder: Path) -> dict[str, str]:
    checkpoint = resolve(ModelConfig(path=str(folder)))
    return provenance(checkpoint, checkpoint.content())


def test_commit_licence_and_digests(model: Path) -> None:
    (model / "README.md").write_text("---\ntags:\n- gpt2\nlicense: mit\n---\nlicense: apache-2.0\n")
    told = found(model)
    assert (told["model_commit"], told["model_licence"]) == (COMMIT, "mit")
    assert told["weights_sha256"] == hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    before = told["tokenizer_sha256"]
    (model / "tokenizer_config.json").write_text((model / "tokenizer_config.json").read_text() + "\n")
    assert found(model)["tokenizer_sha256"] != before


@pytest.mark.parametrize("card", [None, "# no front matter\nlicense: mit\n", "---\nlicense: <script>\n---\n", "\udcff"])
def test_a_licence_that_is_not_told(model: Path, tmp_path: Path, card: str | None) -> None:
    if card is not None:
        (model / "README.md").write_bytes(card.encode("utf-8", "surrogateescape"))
    assert "model_licence" not in found(model)
    elsewhere = shutil.copytree(model, tmp_path / "plain")
    assert "model_commit" not in found(elsewhere)


def changed(model: Path, **keys: Any) -> Checkpoint:
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
    return Checkpoint(model, model, None, json.loads(path.read_text()))


def test_a_tokenizer_that_fits_is_silent(model: Path) -> None:
    vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    for size in (len(vocabulary), len(vocabulary) + 20):
        assert list(misfits(changed(model, vocab_size=size))) == [], "an embedding may be padded"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"vocab_size": 100}, "and the model 100: rows that have one of the others become errors"),
        ({"vocab_size": 5000}, "and the model 5,000: it may be another model's"),
        (
            {"eos_token_id": [0, 9999]},
            "config.json: eos_token_id=9999 is no token of the model, which has ids 0 to 319",
        ),
        ({"bos_token_id": -5}, "config.json: bos_token_id=-5 is no token"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_told(model: Path, keys: dict[str, Any], told: str) -> None:
    assert any(told in line for line in misfits(changed(model, **keys)))


def test_a_tokenizer_of_another_form_says_nothing(model: Path) -> None:
    for text in ("{", "[]", '{"model": {"vocab": 3}}', '{"model": {"vocab": {"a": "b"}}}'):
        (model / "tokenizer.json").write_text(text)
        assert not any("the tokenizer has" in line for line in misfits(changed(model)))
