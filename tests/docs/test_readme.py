from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.cli import TOOLS, main
from jobs.options.arguments import parse
from jobs.options.compose import compose_runs
from jobs.options.keys import keys, sections
from jobs.options.page import presets
from jobs.spec import specs
from jobs.submit import read
from pipeline.errors import ExitCode
from pipeline.output.schema import COLUMNS
from pipeline.types import ErrorCode
from pipeline.work.config import GenerateConfig
from tests.docs.document import ROOT, Document

README = Document("README.md")
KEYS = keys(GenerateConfig)
GROUPS = [*sections(GenerateConfig), "experiment"]
PATHS = ["source.path=in.parquet", "output.path=out"]


def composed(words: list[str], job: str = "generate") -> list[object]:
    if job == "submit":
        return [read(parse(words))]
    return [run.config for run in compose_runs(job, specs()[job].schema, parse(words))]


def overrides_of_the_table() -> list[str]:
    return [cell.split("`")[1] for _, cell in README.table("for")]


@pytest.mark.parametrize("command", README.commands(), ids=" ".join)
def test_a_command_composes(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    job, *words = command
    if job in TOOLS:
        assert job != "help" or main(command) == 0
    elif "--cfg" in words:
        assert main(command) == 0
        assert "sampling:" in capsys.readouterr().out
    else:
        assert all(composed(words, job))  # to typed objects, which `--cfg job` would not check


@pytest.mark.parametrize("line", [x for x in overrides_of_the_table() if not x.startswith("-")])
def test_an_override_composes(line: str) -> None:
    (config,) = composed([*PATHS, *shlex.split(line)])
    assert config is not None


def test_every_preset_named_is_there() -> None:
    named = set(re.findall(rf"\b({'|'.join(GROUPS)})=([\w-]+)", README.text))
    assert ("cluster", "inline") in named
    missing = [f"{group}={name}" for group, name in named if name not in presets(group)]
    assert not missing


def test_every_key_named_is_there() -> None:
    named = set(re.findall(rf"\b((?:{'|'.join(GROUPS)})\.[a-z_]+)", README.prose))
    files = {"output.parquet", "source.parquet"}
    assert not {name for name in named if name not in KEYS} - files
    assert "engine.max_model_len" in named


def test_the_table_of_input_options_is_complete() -> None:
    rows = README.table("option")
    assert [name.strip("`") for name, *_ in rows] == [k for k in KEYS if k.startswith("source.")]


def test_the_table_of_columns_is_the_schema() -> None:
    rows = [(name.strip("`"), kind.strip("`")) for name, kind, _ in README.table("column")]
    assert rows == [(name, spelled(kind)) for name, kind in COLUMNS.items()]


def spelled(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list<{spelled(kind.value_type)}>"
    if pa.types.is_dictionary(kind):
        return f"dictionary({spelled(kind.value_type)})"
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


def test_the_exit_codes_are_all_there() -> None:
    codes = [int(code) for code, _ in README.table("code")]
    assert codes == list(ExitCode)


def test_the_error_codes_are_all_there() -> None:
    (paragraph,) = [x for x in README.text.split("\n\n") if x.startswith("Error codes are")]
    assert re.findall(r"`([A-Z][A-Z0-9_]+)`", paragraph) == [code.value for code in ErrorCode]


def test_the_make_targets_are_there() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake (demo|test|clean|install|lint|format|bench)\b", README.text)) <= targets


def test_the_code_is_python() -> None:
    for block in README.blocks("python"):
        ast.parse(block.text)


def test_the_pinned_torch_is_the_one_named() -> None:
    (pin,) = [x for x in Path(ROOT / "constraints.txt").read_text().splitlines() if x.startswith("torch==")]
    assert f"`{pin}`" in README.text
