"""The commands, tables and names of README.md and of every page of docs/."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from jobs.cli import TOOLS, main
from jobs.options.arguments import parse
from jobs.options.compose import compose_runs
from jobs.options.keys import keys, sections
from jobs.options.page import presets
from jobs.spec import specs
from pipeline.errors import ExitCode
from pipeline.types import ErrorCode
from pipeline.work.config import GenerateConfig
from tests.docs.document import PAGES, ROOT, Document

DOCUMENTS = [Document(name) for name in ("README.md", *PAGES)]
IN_A_SHELL = {"docs/how-to/nightly.md"}
"""Pages whose commands a shell has to expand first: tests/examples/test_nightly.py does it."""
COMMANDS = [words for document in DOCUMENTS if document.name not in IN_A_SHELL for words in document.commands()]
YOUR_PROMPTS = Document("docs/how-to/your-prompts.md")
OUTPUT = Document("docs/reference/output.md")
KEYS = keys(GenerateConfig)
GROUPS = [*sections(GenerateConfig), "experiment"]
PATHS = ["source.path=in.parquet", "output.path=out"]


def composed(words: list[str], job: str = "generate") -> list[object]:
    spec = specs()[job]
    runs = compose_runs(job, spec.schema, parse(words)) if spec.compose is None else spec.compose(parse(words))
    return [run.config for run in runs]


def overrides_of_the_table() -> list[str]:
    return [cell.split("`")[1] for _, cell in YOUR_PROMPTS.table("for")]


def test_the_pages_have_commands() -> None:
    assert len(COMMANDS) >= 20


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_preset_named_is_there(document: Document) -> None:
    named = set(re.findall(rf"\b({'|'.join(GROUPS)})=([\w-]+)", document.text))
    missing = [f"{group}={name}" for group, name in named if name not in presets(group)]
    assert not missing


def test_presets_are_named() -> None:
    assert (
        "cluster=inline" in YOUR_PROMPTS.text and "engine=continuous" in Document("docs/reference/guarantees.md").text
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_key_named_is_there(document: Document) -> None:
    assert not keys_named(document) - {name for spec in specs().values() for name in keys(spec.schema)}


def test_keys_are_named() -> None:
    assert "engine.max_model_len" in keys_named(YOUR_PROMPTS)


def keys_named(document: Document) -> set[str]:
    """What looks like a key in a page's prose: targets of links, paths and names of files left out."""
    prose = re.sub(r"\]\([^)]*\)", "]", document.prose)
    found = re.findall(rf"(?<![\w/.-])((?:{'|'.join(GROUPS)})\.[a-z_]+)(?![\w/])", prose)
    return {name for name in found if not name.endswith((".parquet", ".md", ".py", ".yaml", ".c"))}


def test_the_table_of_input_options_is_complete() -> None:
    rows = Document("docs/reference/input.md").table("option")
    assert [name.strip("`") for name, *_ in rows] == [k for k in KEYS if k.startswith("source.")]


def test_the_exit_codes_are_all_there() -> None:
    codes = [int(code) for code, _ in Document("docs/reference/exit-codes.md").table("code")]
    assert codes == list(ExitCode)


def test_the_error_codes_are_all_there() -> None:
    (paragraph,) = [x for x in OUTPUT.text.split("\n\n") if x.startswith("Error codes are")]
    assert re.findall(r"`([A-Z][A-Z0-9_]+)`", paragraph) == [code.value for code in ErrorCode]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_the_make_targets_are_there(document: Document) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shell = "".join(block.text for block in document.blocks("sh"))
    assert set(re.findall(r"(?:^|`| )make ([\w-]+)(?=[` \n])", shell)) <= targets
    assert set(re.findall(r"`make\s([\w-]+)[`\s]", document.prose)) <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_the_code_is_python(document: Document) -> None:
    for block in document.blocks("python"):
        ast.parse(block.text)


def test_the_code_that_reads_an_output_is_there() -> None:
    assert len(Document("docs/how-to/read-output.md").blocks("python")) == 1


def test_the_pinned_torch_is_the_one_named() -> None:
    (pin,) = [x for x in Path(ROOT / "constraints.txt").read_text().splitlines() if x.startswith("torch==")]
    assert f"`{pin}`" in Document("docs/how-to/install.md").text


@pytest.mark.parametrize("extra", re.findall(r"'\.\[(\w+)\]'", "".join(d.text for d in DOCUMENTS)))
def test_an_extra_named_is_there(extra: str) -> None:
    assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
