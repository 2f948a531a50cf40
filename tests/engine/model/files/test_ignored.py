"""What generation_config.json changes in transformers' `generate` and not here is told: each key is tried with both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from pipeline.engine.config import ModelConfig
from pipeline.engine.model.files.checkpoint import resolve
from pipeline.engine.model.files.ignored import ignored
from pipeline.engine.model.load import load_model
from pipeline.errors import ModelRefused
from pipeline.sampling import SamplingParams
from tests.engine.small.tiny_models import Tiny, drain, request

MakeTiny = Callable[..., Tiny]


def told(model: Tiny, folder: Path, asked: dict[str, Any], **sampling: Any) -> list[str]:
    shutil.copytree(model.folder, folder, dirs_exist_ok=True)
    (folder / "generation_config.json").write_text(json.dumps(asked))
    return list(ignored(resolve(ModelConfig(path=str(folder))), SamplingParams(**sampling)))


UNDONE: list[dict[str, Any]] = [
    {"suppress_tokens": "best"}, {"begin_suppress_tokens": "first"}, {"bad_words_ids": "words"}, {"no_repeat_ngram_size": 1},
    {"forced_bos_token_id": 5}, {"forced_eos_token_id": 5}, {"sequence_bias": "bias"},
]  # fmt: skip


@pytest.mark.parametrize("asked", UNDONE, ids=str)
def test_a_setting_that_changes_what_generate_makes_is_told(
    tiny: MakeTiny, tmp_path: Path, asked: dict[str, Any]
) -> None:
    """Greedy texts of `generate` with the setting differ from ours; without it they are the same."""
    model, prompt = tiny(), [7]
    plain, _ = model.generate(prompt, 12)
    values = {
        "best": sorted(set(plain)), "first": [plain[0]], "words": [[plain[0]]], "bias": [[[plain[0]], -50.0]],
    }  # fmt: skip
    ((key, value),) = asked.items()
    asked = {key: values.get(value, value) if isinstance(value, str) else value}
    oracle = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32).eval()
    config = GenerationConfig(max_new_tokens=12, do_sample=False, pad_token_id=0, **asked)
    theirs = oracle.generate(torch.tensor([prompt]), generation_config=config)[0, 1:].tolist()
    done = drain(model.engine(), [request("a", prompt, max_tokens=12, ignore_eos=True)])["a", 0]
    assert list(done.token_ids) == plain != theirs
    (line,) = told(model, tmp_path / "m", asked)
    assert f"asks for {key}=" in line and "not done here" in line and "\n" not in line and len(line) < 300


def test_settings_that_can_be_had_are_told_with_how(tiny: MakeTiny, tmp_path: Path) -> None:
    asked = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1}
    (line,) = told(tiny(), tmp_path / "m", asked)
    assert line.endswith(
        "to have them too: sampling.temperature=0.6 sampling.top_k=20 sampling.top_p=0.9 sampling.repetition_penalty=1.1"
    )
    assert told(tiny(), tmp_path / "m", asked, temperature=0.6, top_p=0.9, top_k=20, repetition_penalty=1.1) == []
    (line,) = told(tiny(), tmp_path / "m", {**asked, "do_sample": False}, min_tokens=2)
    assert line.endswith(": sampling.repetition_penalty=1.1"), "the others do nothing where no token is drawn"


def test_stop_strings_are_told_as_a_shell_takes_them(tiny: MakeTiny, tmp_path: Path) -> None:
    for asked in (["\n", "END"], "END"):
        (line,) = told(tiny(), tmp_path / "m", {"stop_strings": asked}, stop=["\n"])
        assert line.endswith("""to have them too: 'sampling.stop=["END"]'""")
    assert told(tiny(), tmp_path / "m", {"stop_strings": "END"}, stop=["END"]) == []


@pytest.mark.parametrize(
    "asked",
    [{}, {"eos_token_id": 0, "max_length": 20, "transformers_version": "5"}, {"num_beams": 1, "guidance_scale": 1.0},
     {"suppress_tokens": [], "no_repeat_ngram_size": 0, "typical_p": 1.0, "bad_words_ids": None}, {"temperature": 0.5}],
    ids=str,
)  # fmt: skip
def test_what_does_nothing_is_not_told(tiny: MakeTiny, tmp_path: Path, asked: dict[str, Any]) -> None:
    assert told(tiny(), tmp_path / "m", asked) == []


def test_without_the_file_nothing_is_told(tiny: MakeTiny, tmp_path: Path) -> None:
    told(tiny(), tmp_path / "m", {})
    (tmp_path / "m" / "generation_config.json").unlink()
    assert list(ignored(resolve(ModelConfig(path=str(tmp_path / "m"))), SamplingParams())) == []


@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
def test_an_output_weight_that_is_not_finite_is_refused(tiny: MakeTiny, tmp_path: Path, value: float) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny("llama").folder)
    model.lm_head.weight.data[257] = value
    model.save_pretrained(tmp_path)
    tiny("llama").tokenizer.inner.save_pretrained(tmp_path)
    config = ModelConfig(path=str(tmp_path))
    with pytest.raises(ModelRefused, match="the output layer's weight has infinities or NaN, first for token 257"):
        load_model(resolve(config), config)
