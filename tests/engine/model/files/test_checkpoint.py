"""Finding a model's files, refusing what is unsafe or not served, and naming the content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.engine.config import EngineConfig, ModelConfig
from pipeline.engine.model.files.checkpoint import Checkpoint, model_len, resolve
from pipeline.engine.model.load import load_model
from pipeline.errors import ModelRefused
from tests.engine.small.tiny_models import DEMO, Tiny
from tests.example_counts import examples

MakeTiny = Callable[..., Tiny]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the demo model that a test may spoil."""
    return shutil.copytree(DEMO, tmp_path / "model")


def refusal(path: object, **options: Any) -> str:
    with pytest.raises(ModelRefused) as refused:
        resolve(ModelConfig(path=str(path), **options))
    assert "\n" not in str(refused.value) and refused.value.exit_code == 2
    return str(refused.value)


def edit(folder: Path, **changes: Any) -> None:
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, **changes}))


def test_a_directory_is_found_as_it_is(folder: Path) -> None:
    checkpoint = resolve(ModelConfig(path=str(folder)))
    assert (checkpoint.directory, checkpoint.tokenizer, checkpoint.adapter) == (folder, folder, None)
    assert checkpoint.context_length == 256
    assert checkpoint.config["model_type"] == "gpt2"


def test_weights_that_are_there_in_another_form_too_count_once(folder: Path) -> None:
    """Some checkpoints on the hub have a `consolidated.safetensors` beside the files that transformers reads."""
    model, config = folder / "model.safetensors", ModelConfig(path=str(folder))
    size = model.stat().st_size
    shutil.copy(model, folder / "consolidated.safetensors")
    assert resolve(config).weight_bytes == size
    model.rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    assert resolve(config).weight_bytes == size
    (folder / "model.safetensors.index.json").write_text("{}")
    assert resolve(config).weight_bytes == 2 * size, "nothing tells which is which"


def test_the_context_is_read_by_any_of_its_names() -> None:
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        assert Checkpoint(Path(), Path(), None, {name: 77}).context_length == 77
    assert Checkpoint(Path(), Path(), None, {}).context_length is None
    assert Checkpoint(Path(), Path(), None, {"max_position_embeddings": None, "n_positions": 5}).context_length == 5


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "tf_model.h5", "model.ckpt"])
def test_fault_35_weights_that_can_run_code_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    assert f"has only {name}, which can run code when it is loaded; convert it to safetensors" in refusal(folder)


def test_fault_35_code_of_its_own_is_refused_and_not_run(folder: Path) -> None:
    (folder / "modeling_evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    edit(folder, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"}, model_type="evil")
    assert "needs code of its own (auto_map in config.json), which is never run" in refusal(folder)
    assert not (folder / "ran").exists()


def test_fault_35_an_adapter_too(folder: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.bin").touch()
    assert f"{adapter}: has only adapter_model.bin" in refusal(folder, adapter=str(adapter))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "t5 is an encoder-decoder; only decoder-only"),
        ({"model_type": "roberta", "is_decoder": True}, "roberta counts positions from its padding token on"),
        ({"text_config": {"layer_types": ["linear_attention"]}}, "layers of the kind linear_attention"),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic"}}}, "changes its rotary embedding"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layers of the kind sliding_attention"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "layers of the kind linear_attention"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "changes its rotary embedding with the length"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "changes its rotary embedding with the length"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "weights are quantised (quant_method='gptq')"),
        ({"text_config": {"quantization_config": {"bits": 4}}}, "weights are quantised (quant_method=None)"),
    ],
)
def test_what_is_not_served_is_refused_by_name(folder: Path, changes: dict[str, Any], told: str) -> None:
    edit(folder, **changes)
    assert told in refusal(folder)


def test_code_that_is_named_and_not_needed_is_not_run(folder: Path) -> None:
    """Many checkpoints of models that transformers has itself name the code that they once needed."""
    (folder / "modeling_evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    edit(folder, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    load_model(resolve(ModelConfig(path=str(folder))), ModelConfig(path=str(folder)))
    assert not (folder / "ran").exists()


WINDOWS: list[dict[str, Any]] = [
    {"model_type": "mistral", "sliding_window": 64},
    {"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True},
    {"sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]},
    {"model_type": "gemma3", "text_config": {"sliding_window": 64, "layer_types": ["sliding_attention"]}},
]


@pytest.mark.parametrize("changes", WINDOWS)
def test_a_sliding_window_is_refused_where_it_bites(folder: Path, changes: dict[str, Any]) -> None:
    edit(folder, **changes)
    checkpoint = resolve(ModelConfig(path=str(folder)))
    assert model_len(checkpoint, EngineConfig(max_model_len=64)) == 64
    for longer in (65, None):
        with pytest.raises(ModelRefused, match=r"sliding window, .* up to engine\.max_model_len=64$"):
            model_len(checkpoint, EngineConfig(max_model_len=longer))


def test_what_stands_in_a_part_of_the_configuration_is_read_there() -> None:
    text = {"vocab_size": 9, "max_position_embeddings": 77}
    nested = Checkpoint(Path(), Path(), None, {"model_type": "gemma3", "text_config": text})
    assert (nested.vocab_size, nested.context_length) == (9, 77)


def test_an_adapter_in_the_place_of_a_model_is_told(folder: Path) -> None:
    """transformers would fetch the base model that it names."""
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert "is a PEFT adapter: name its base model with model.path, and this with model.adapter" in refusal(folder)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "CPT", "XLORA"])
def test_adapters_that_cannot_be_merged_are_refused_by_name(folder: Path, tmp_path: Path, kind: str) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").touch()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
    assert f"peft_type={kind}: adds no weights to those of the model" in refusal(folder, adapter=str(adapter))
    (adapter / "adapter_config.json").write_text("{}")
    assert "has no peft_type" in refusal(folder, adapter=str(adapter))
    (adapter / "adapter_config.json").unlink()
    assert "has no adapter_config.json" in refusal(folder, adapter=str(adapter))


@pytest.mark.parametrize(
    "changes",
    [
        {"sliding_window": 4096, "use_sliding_window": False}, {"sliding_window": None}, {"layer_types": None},
        {"layer_types": ["full_attention"] * 4}, {"rope_scaling": None}, {"rope_scaling": {"rope_type": "llama3"}},
        {"is_encoder_decoder": False},
    ],
)  # fmt: skip
def test_what_only_looks_like_it_is_not(folder: Path, changes: dict[str, Any]) -> None:
    edit(folder, **changes)
    resolve(ModelConfig(path=str(folder)))


def test_missing_files_are_told_by_name(folder: Path, tmp_path: Path) -> None:
    assert "there is no such directory" in refusal(tmp_path / "none")
    assert "there is no such directory" in refusal("./none")
    assert "there is no such directory" in refusal("a/b/c")
    assert "there is no such directory" in refusal(folder / "config.json")
    assert "neither a directory nor a hub id" in refusal("not a hub id!")
    assert "is a directory, which has no revisions" in refusal(folder, revision="main")
    assert "model.tokenizer=" in refusal(folder, tokenizer=str(tmp_path / "none"))
    assert "model.adapter=" in refusal(folder, adapter=str(tmp_path / "none"))
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer; name one with model.tokenizer" in refusal(folder)
    assert resolve(ModelConfig(path=str(folder), tokenizer=str(DEMO))).tokenizer == DEMO
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refusal(folder)
    (folder / "config.json").unlink()
    assert "has no config.json, so it is not a transformers model" in refusal(folder)


@pytest.mark.parametrize("text", ["{", "[]", "\x00", '"gpt2"'])
def test_a_spoilt_configuration_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert "config.json: " in refusal(folder)


def test_content_is_the_sha256_of_what_decides_the_output(folder: Path) -> None:
    (folder / "README.md").write_text("a word")
    content = resolve(ModelConfig(path=str(folder))).content()
    assert set(content) == {
        "model/config.json", "model/generation_config.json", "model/model.safetensors", "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    }  # fmt: skip
    for name, digest in content.items():
        assert digest == hashlib.sha256((folder / name.split("/")[1]).read_bytes()).hexdigest()
    again = shutil.copytree(folder, folder.parent / "elsewhere")
    assert resolve(ModelConfig(path=str(again))).content() == content


@settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(name=st.sampled_from(["model.safetensors", "tokenizer.json", "config.json"]), data=st.data())
def test_content_changes_with_any_byte(folder: Path, name: str, data: st.DataObject) -> None:
    checkpoint = Checkpoint(folder, folder, None, {})
    before, raw = checkpoint.content(), bytearray((folder / name).read_bytes())
    place, flip = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(1, 255))
    raw[place] ^= flip
    (folder / name).write_bytes(raw)
    after = checkpoint.content()
    assert {k for k in before if before[k] != after[k]} == {k for k in before if k.endswith("/" + name)}
    raw[place] ^= flip
    (folder / name).write_bytes(raw)


def test_shards_and_adapters_belong_to_the_content(folder: Path, tmp_path: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"x")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (adapter / "adapter_model.safetensors").write_bytes(b"y")
    content = resolve(ModelConfig(path=str(folder), adapter=str(adapter))).content()
    assert {"model/model-00002-of-00002.safetensors", "adapter/adapter_model.safetensors"} <= set(content)
    assert "adapter/adapter_config.json" in content


REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_home(tmp_path: Path) -> Path:
    """A hub cache that holds `tester/tiny`, laid out as the hub's client does it."""
    repo = tmp_path / "home" / "hub" / "models--tester--tiny"
    snapshot = repo / "snapshots" / REVISION
    for part in (snapshot, repo / "blobs", repo / "refs"):
        part.mkdir(parents=True)
    (repo / "refs" / "main").write_text(REVISION)
    for file in DEMO.iterdir():
        data = file.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        blob = repo / "blobs" / (hashlib.sha256(data).hexdigest() if file.suffix == ".safetensors" else git)
        blob.write_bytes(data)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return tmp_path / "home"


SCRIPT = """
import json, sys
from pipeline.engine.model.files.checkpoint import resolve
from pipeline.engine.config import ModelConfig
from pipeline.errors import ModelRefused
told = []
for options in json.loads(sys.argv[1]):
    try:
        checkpoint = resolve(ModelConfig(**options))
        told.append([str(checkpoint.directory), checkpoint.content()])
    except ModelRefused as error:
        told.append(str(error))
assert "torch" not in sys.modules
print(json.dumps(told))
"""


def offline(home: Path, *options: dict[str, str]) -> list[Any]:
    """Resolve in a separate process: the hub's client reads its environment once."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
    environment |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    out = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(options)], env=environment, cwd=Path(__file__).parents[4],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    told: list[Any] = json.loads(out.stdout)
    return told


def test_faults_33_and_34_the_hub_cannot_be_reached(hub_home: Path) -> None:
    main, pinned, other, none, tokenizer = offline(
        hub_home, {"path": "tester/tiny"}, {"path": "tester/tiny", "revision": REVISION},
        {"path": "tester/tiny", "revision": "v2"}, {"path": "tester/none"},
        {"path": "tester/tiny", "tokenizer": "tester/none"},
    )  # fmt: skip
    assert main == pinned
    assert main[0].endswith(f"models--tester--tiny/snapshots/{REVISION}")
    assert main[1] == resolve(ModelConfig(path=str(DEMO))).content()  # the same model, wherever its files are
    for message in (other, none, tokenizer):
        assert "its cache does not hold this model" in message and "go online once, or give a directory" in message
    assert "model.path=tester/tiny" in other and "at revision v2" in other
    assert "model.path=tester/none" in none
    assert "model.tokenizer=tester/none" in tokenizer


def test_fault_34_a_cache_without_the_weights_is_told(hub_home: Path) -> None:
    next(hub_home.rglob("snapshots/*/model.safetensors")).unlink()
    (message,) = offline(hub_home, {"path": "tester/tiny"})
    assert "has no weights" in message


@pytest.mark.parametrize(
    ("error", "told"),
    [(RevisionNotFoundError, "the hub has no revision v2"), (RepositoryNotFoundError, "such a model")],
)
def test_fault_33_the_hub_does_not_have_it(error: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise error.__new__(error, "404\nClient Error")  # without the response that its constructor wants

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert told in refusal("tester/tiny", revision="v2")


def test_a_full_disk_while_downloading_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> str:
        raise OSError(28, "No space left\non device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert "cannot be fetched from the hub: [Errno 28] No space left on device" in refusal("tester/tiny")
