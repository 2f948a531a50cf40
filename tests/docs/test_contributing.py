"""The four examples of CONTRIBUTING.md are applied to a copy of the code, and a job is run with all of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from jobs.options.keys import keys
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.listing import open_source
from pipeline.work.config import GenerateConfig
from tests.docs.document import ROOT, Block, Document

CONTRIBUTING = Document("CONTRIBUTING.md")

# One process for both runs: most of their time is spent importing torch.
SCRIPT = """
import json, sys
from pathlib import Path
import pipeline
from jobs.options.arguments import parse
from jobs.cli import main
from jobs.options.compose import compose_runs
from pipeline.work.config import GenerateConfig

assert Path(pipeline.__file__).is_relative_to(Path.cwd()), pipeline.__file__
commands, runs = json.loads(sys.argv[1])
for _, *words in commands:
    compose_runs("generate", GenerateConfig, parse(words))
sys.exit(max(main(run) for run in runs))
"""


def commands() -> list[list[str]]:
    return CONTRIBUTING.commands()


def files() -> list[Block]:
    return [block for language in ("python", "yaml") for block in CONTRIBUTING.blocks(language) if block.title]


def applied(text: str, block: Block) -> str:
    """`text` with a diff's hunks applied, each found by its context: exactly one place must fit."""
    for hunk in block.text.split("@@\n")[1:]:
        lines = hunk.splitlines()
        before = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
        after = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
        assert text.count(before) == 1, f"{block.title}: this is there {text.count(before)} times:\n{before}"
        text = text.replace(before, after)
    return text


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with every example in it."""
    folder = tmp_path_factory.mktemp("project")
    for room in ("jobs", "conf", "pipeline"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for block in files():
        path = folder / block.title
        assert not path.exists(), block.title
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
    for block in CONTRIBUTING.blocks("diff"):
        path = folder / block.title
        path.write_text(applied(path.read_text(encoding="utf-8"), block), encoding="utf-8")
    (folder / "models").mkdir()
    (folder / "models" / "mine").symlink_to(ROOT / "examples" / "demo-model")
    with zipfile.ZipFile(folder / "prompts.zip", "w") as archive:
        archive.write(ROOT / "examples" / "prompts.parquet", "prompts.parquet")
    return folder


@pytest.fixture(scope="module")
def outputs(project: Path) -> dict[str, Path]:
    """What two engines made with the preset, the statistic and the source of the examples."""
    outputs = {engine: project / "outputs" / engine for engine in ("serial", "continuous")}
    runs = [
        [
            "generate", "--config-dir", "presets", "model=mine", f"engine={engine}", "stats.columns=[logprob,margin]",
            f"source.path=zip://{project / 'prompts.zip'}", "source.id_column=id", "source.limit=6", "cluster=inline",
            "sampling.max_tokens=12", f"output.path={path}",
        ]
        for engine, path in outputs.items()
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([commands(), runs])],
        cwd=project, env={**os.environ, "PYTHONPATH": str(project)}, capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return outputs


def rows(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(output / "data").to_pylist()
    return found


def test_the_engine_gives_the_same_bytes_as_the_others(outputs: dict[str, Path]) -> None:
    serial, continuous = (rows(outputs[engine]) for engine in ("serial", "continuous"))
    assert len(serial) == 6
    assert repr(serial) == repr(continuous)  # repr tells every bit of a float
    environment = json.loads((outputs["serial"] / "_job" / "manifest.json").read_text())["environment"]
    assert environment["engine"] == "serial"


def test_the_statistic_has_a_column(outputs: dict[str, Path]) -> None:
    table = pq.read_table(outputs["continuous"] / "data")
    assert "token_entropies" not in table.column_names
    names = table.column_names
    assert names[names.index("token_logprobs") + 1] == "token_margins"
    for row in table.to_pylist():
        assert len(row["token_margins"]) == row["completion_tokens"]
        assert all(value >= 0 for value in row["token_margins"])


def test_the_preset_is_the_model_that_ran(outputs: dict[str, Path]) -> None:
    assert "path: models/mine" in (outputs["serial"] / "_job" / "config.yaml").read_text()


def test_the_source_gives_what_is_in_the_archive(outputs: dict[str, Path]) -> None:
    prompts = pq.read_table(ROOT / "examples" / "prompts.parquet").to_pylist()[:6]
    assert [(r["row_id"], r["prompt"]) for r in rows(outputs["serial"])] == [(p["id"], p["prompt"]) for p in prompts]


def test_the_converter_makes_a_source(project: Path, tmp_path: Path) -> None:
    arrow = tmp_path / "prompts.arrow"
    feather.write_feather(pa.table({"prompt": ["Once", None], "topic": ["a", "b"]}), str(arrow))
    target = tmp_path / "prompts.parquet"
    subprocess.run([sys.executable, project / "to_parquet.py", arrow, target], check=True, timeout=900)
    source = open_source(SourceConfig(path=str(target), keep_columns=["topic"]))
    assert [file.rows for file in source.files] == [2]


def test_the_examples_are_in_the_projects_style(project: Path) -> None:
    changed = {block.title for language in ("python", "diff") for block in CONTRIBUTING.blocks(language) if block.title}
    for arguments in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, *sorted(changed)],
            cwd=project, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_it_names_is_there() -> None:
    for path in re.findall(r"`((?:pipeline|jobs|tests|conf|examples)/[\w/.-]*)`", CONTRIBUTING.prose):
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make (\w+)`", CONTRIBUTING.text)) <= targets
    assert set(re.findall(r"\b(stats\.\w+|source\.\w+)=", CONTRIBUTING.prose)) <= set(keys(GenerateConfig))
