from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.parts.lines import Settings, absent, lines, read_peers, refuse_other_models

MODEL = Path("/models/m")


def peers_file(folder: Path, text: str) -> Path:
    for name in ("py", "ov32", "ov8", "ct2"):
        (folder / name).mkdir(exist_ok=True)
    file = folder / "peers.toml"
    file.write_text(text)
    return file


def everyone(folder: Path) -> Settings:
    file = peers_file(
        folder,
        '[vllm]\npython = "py"\n[openvino]\npython = "py"\nfloat32 = "ov32"\nint8 = "ov8"\n'
        '[ctranslate2]\npython = "py"\nmodel = "ct2"\n',
    )
    return Settings(MODEL, peers=read_peers(file))


def test_without_peers_there_are_the_limit_promptmill_and_transformers() -> None:
    found = lines("uniform", Settings(MODEL))
    assert [line.name for line in found] == [
        "limit", "promptmill float32", "promptmill int8", "promptmill int8, cache in bfloat16",
        "promptmill int8, cache in int8",
        "transformers `generate`, batch 64",
    ]  # fmt: skip
    assert [line.command for line in found] == [
        (sys.executable, "-m", "benchmarks.limits", "/models/m", "64"),
        (sys.executable, "-m", "benchmarks.ours", "/models/m", "uniform", "64", "64"),
        (sys.executable, "-m", "benchmarks.ours", "/models/m", "uniform", "64", "64", "--int8"),
        (
            sys.executable,
            "-m",
            "benchmarks.ours",
            "/models/m",
            "uniform",
            "64",
            "64",
            "--int8",
            "--kv-cache-dtype",
            "bfloat16",
        ),
        (
            sys.executable,
            "-m",
            "benchmarks.ours",
            "/models/m",
            "uniform",
            "64",
            "64",
            "--int8",
            "--kv-cache-dtype",
            "int8",
        ),
        (sys.executable, "-m", "benchmarks.peers.transformers_generate", "/models/m", "uniform", "64", "64"),
    ]


def test_each_peer_runs_in_its_own_environment_on_its_own_model(tmp_path: Path) -> None:
    commands = {line.name: line.command for line in lines("uniform", everyone(tmp_path))[6:]}
    python = str(tmp_path / "py")
    openvino = (python, "-m", "benchmarks.peers.openvino_genai")
    hint, groups = "INFERENCE_PRECISION_HINT=f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE=128"
    ov8 = (*openvino, str(tmp_path / "ov8"), "uniform", "64", "64", hint)
    translate = (python, "-m", "benchmarks.peers.ctranslate2", str(tmp_path / "ct2"), "uniform", "64", "64")
    assert commands == {
        "vLLM, compiled": (python, "-m", "benchmarks.peers.vllm_cpu", "/models/m", "uniform", "64", "64"),
        "OpenVINO GenAI float32": (*openvino, str(tmp_path / "ov32"), "uniform", "64", "64", hint),
        "OpenVINO GenAI int8": ov8,
        "OpenVINO GenAI int8, groups of 128": (*ov8, groups),
        "CTranslate2 float32": (*translate, "--compute-type", "float32"),
        "CTranslate2 int8": (*translate, "--compute-type", "int8_float32"),
    }


def test_mixed_lengths_take_another_batch_and_leave_out_ctranslate2(tmp_path: Path) -> None:
    found = lines("mixed", everyone(tmp_path))
    assert [line.command[-1] for line in found if line.engine == "transformers"] == ["16"]
    assert not [line for line in found if line.engine == "ctranslate2"]


def test_what_is_measured_of_promptmill_alone() -> None:
    settings = Settings(MODEL, batch=8, requests=3)
    assert [line.command[2:] for line in lines("prefill", settings)[1:]] == [
        ("benchmarks.ours", "/models/m", "prefill", "3", "1"),
        ("benchmarks.ours", "/models/m", "prefill", "3", "1", "--int8"),
    ]
    assert lines("decode", settings)[1].command[2:] == ("benchmarks.phases", "/models/m", "uniform", "3", "8")
    assert [line.command[-2:] for line in lines("few_shot", settings)[1:3]] == [
        ("--prefix-caching", "off"), ("--prefix-caching", "on"),
    ]  # fmt: skip


def test_what_prompts_share_is_read_by_every_peer_that_can_cache_it(tmp_path: Path) -> None:
    settings = everyone(tmp_path)
    for name in ("few_shot", "samples", "classify", "chat"):
        found = [line for line in lines(name, settings) if line.engine not in ("limit", "promptmill")]
        assert [line.engine for line in found] == ["transformers", "vllm", "openvino", "openvino", "openvino"]
        assert all(line.command[4] == name for line in found)
    assert [line.name for line in lines("samples", settings)[1:6]] == [
        "promptmill float32", "promptmill float32, prefix caching", "promptmill int8", "promptmill int8, prefix caching",
        "promptmill int8, prefix caching, cache in int8",
    ]  # fmt: skip


def test_a_peer_without_choices_says_that_it_has_none() -> None:
    assert lines("classify", Settings(MODEL))[-1].name == "transformers `generate`, batch 16, free tokens"
    assert lines("chat", Settings(MODEL))[-1].name == "transformers `generate`, batch 16"


def test_peers_that_are_not_named_are_absent(tmp_path: Path) -> None:
    file = peers_file(tmp_path, '[vllm]\npython = "py"\n')
    assert absent(read_peers(file)) == ["openvino", "ctranslate2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[vlm]\n", "vlm: must be one of transformers, vllm"),
        ('vllm = "py"\n', "vllm: must be a table with `python`"),
        ('[openvino]\nfloat32 = "ov32"\n', "openvino: must be a table with `python`"),
        ('[vllm]\npython = "py"\nfloat32 = "ov32"\n', "vllm.float32: must be a path under python"),
        ("[vllm]\npython = 3\n", "vllm.python: must be a path"),
        ('[vllm]\npython = "gone"\n', "vllm.python='gone': there is no such file"),
        ("[vllm\n", "peers.toml: "),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as refused:
        read_peers(peers_file(tmp_path, text))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_example_names_what_is_known(tmp_path: Path) -> None:
    example = (Path(__file__).parents[2] / "benchmarks" / "peers.example.toml").read_text()
    with pytest.raises(SystemExit, match="there is no such file or folder"):
        read_peers(peers_file(tmp_path, example.replace("/opt/peers", str(tmp_path / "nowhere"))))


def test_a_conversion_of_another_model_is_refused(tmp_path: Path) -> None:
    settings = everyone(tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"n_layer": 2, "n_embd": 64}))
    (tmp_path / "ov32" / "config.json").write_text(json.dumps({"n_layer": 2, "n_embd": 64}))
    refuse_other_models(settings.peers, model)
    (tmp_path / "ov8" / "config.json").write_text(json.dumps({"n_layer": 36, "n_embd": 64}))
    with pytest.raises(SystemExit, match=r"openvino\.int8=.*: n_layer is 36, and 2 in "):
        refuse_other_models(settings.peers, model)
