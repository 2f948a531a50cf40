"""Faults 33 to 35, 51 and 52: models that are missing, unsafe, or only in the cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Rust
from tokenizers import decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.work.prepare import prepare
from tests.small_runs import MODEL, generate, messages, read, write


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write({"prompt": ["Lost"]}, tmp_path / "in.parquet")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache of our own, and a hub that cannot be reached."""
    from huggingface_hub import constants

    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def copied(folder: Path, **changes: object) -> Path:
    shutil.copytree(MODEL, folder)
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, **changes}))
    return folder


def refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """Run, and return the one line that says why not."""
    assert generate(source, tmp_path / "out", *options) == 2
    (line,) = messages(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
    assert line.startswith("promptmill: ")
    return line


def test_fault_33_no_such_directory(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "/no/such/model" in refused(source, tmp_path, capsys, "model.path=/no/such/model")


def test_fault_33_neither_on_the_hub_nor_cached(
    source: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(source, tmp_path, capsys, "model.path=nobody/nothing", "model.revision=v9")
    assert "nobody/nothing" in line and "v9" in line


def test_fault_33_a_directory_has_no_revision(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "model.revision=v9" in refused(source, tmp_path, capsys, "model.revision=v9")


def test_fault_34_hub_unreachable_and_model_cached(source: Path, cache: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = cache / "models--someone--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(MODEL, repository / "snapshots" / commit)
    assert generate(source, tmp_path / "out", "model.path=someone/small") == 0
    plain = tmp_path / "plain"
    assert generate(source, plain) == 0
    plans = [json.loads((o / "_job" / "plan.json").read_text())["plan_id"] for o in (tmp_path / "out", plain)]
    assert plans[0] == plans[1], "the content counts, not where it lies"


def test_fault_35_weights_that_are_not_safetensors(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    line = refused(source, tmp_path, capsys, f"model.path={folder}")
    assert "pytorch_model.bin" in line and "safetensors" in line


def test_fault_35_remote_code(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(tmp_path / "model", auto_map={"AutoModelForCausalLM": "modeling.Evil"}, model_type="evil")
    (folder / "modeling.py").write_text("raise SystemExit('ran')")
    line = refused(source, tmp_path, capsys, f"model.path={folder}")
    assert "code" in line


def test_the_weights_are_what_the_plan_names(source: Path, tmp_path: Path) -> None:
    """A model that was replaced under the same path is another plan."""
    from jobs.options.arguments import parse
    from jobs.options.compose import compose_runs
    from pipeline.work.config import GenerateConfig

    folder = copied(tmp_path / "model")
    arguments = parse([f"model.path={folder}", f"source.path={source}", f"output.path={tmp_path}/out"])
    (run,) = compose_runs("generate", GenerateConfig, arguments)
    assert run.config is not None
    before = prepare(run.config)
    assert before.weight_bytes == (folder / "model.safetensors").stat().st_size
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert prepare(run.config).job.plan.plan_id != before.job.plan.plan_id


def test_fault_51_a_token_that_the_model_lacks(tmp_path: Path) -> None:
    folder = copied(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    source = write({"prompt": ["Lost", "fill in the [PAD] here", "Dear"]}, tmp_path / "in.parquet")
    assert generate(source, tmp_path / "out", f"model.path={folder}") == 0
    assert read(tmp_path / "out").column("error_code").to_pylist() == [None, "BAD_TOKEN_ID", None]


def unspellable(folder: Path) -> Path:
    """The demo model with a tokenizer of letters, of a kind that llguidance cannot use."""
    copied(folder)
    letters = [("<unk>", 0.0), ("<|end|>", 0.0), *((c, -3.0) for c in "\u2581abcdefghijklmnopqrstuvwxyz")]
    rust = Rust(models.Unigram(letters, unk_id=0))
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=rust, unk_token="<unk>", eos_token="<|end|>").save_pretrained(folder)
    return folder


def test_fault_52_a_row_whose_grammar_the_tokenizer_cannot_spell(tmp_path: Path) -> None:
    folder = unspellable(tmp_path / "model")
    rules = ["{}"] * 7 + ['{"regex": "a+"}', '{"choice": ["a", "b"]}'] + ["{}"] * 3
    source = write({"prompt": ["lost"] * 12, "s": rules}, tmp_path / "in.parquet")
    options = (f"model.path={folder}", "source.sampling_column=s", "output.rows_per_shard=3")
    assert generate(source, tmp_path / "out", *options) == 0
    codes = {row["row_id"]: row["error_code"] for row in read(tmp_path / "out").to_pylist()}
    assert {row_id: code for row_id, code in codes.items() if code} == {
        "in.parquet:7": "BAD_SAMPLING", "in.parquet:8": "BAD_SAMPLING"
    }  # fmt: skip


def test_a_job_whose_grammar_the_tokenizer_cannot_spell(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = unspellable(tmp_path / "model")
    line = refused(source, tmp_path, capsys, f"model.path={folder}", "sampling.regex=a+")
    assert "sampling.regex: this tokenizer cannot be used for structured output" in line
