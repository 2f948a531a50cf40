"""The commands, tables and names of README.md and of every page of docs/."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from jobs.cli import TOOLS, main
from jobs.console.launch import compose
from jobs.help.page import presets
from jobs.options.arguments import parse
from jobs.options.keys import keys, sections
from jobs.spec import specs
from pipeline.engine.cache.block_pool import BLOCK
from pipeline.engine.cache.kv_cache import block_bytes
from pipeline.engine.native.product import STRETCH
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
    return [run.config for run in compose(specs()[job], parse(words))]


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


GPT2 = {"gpt2": (12, 12, 768), "gpt2-medium": (24, 16, 1024), "gpt2-large": (36, 20, 1280), "gpt2-xl": (48, 25, 1600)}
"""Layers, heads and width of the GPT-2 models."""
TINYLLAMA = {
    "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
    "num_attention_heads": 32, "num_key_value_heads": 4, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize("name", [*GPT2, "TinyLlama"])
def test_the_memory_of_a_model_is_what_its_sizes_give(name: str) -> None:
    layers, heads, width = GPT2.get(name, (22, 4, 4 * 64))  # the heads of keys and values
    sizes = {"n_layer": layers, "n_head": heads, "n_embd": width}
    config: Any = AutoConfig.for_model("gpt2", **sizes) if name in GPT2 else AutoConfig.for_model("llama", **TINYLLAMA)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = sum(p.numel() for p in model.parameters())  # a shared one counts once
    linear = sum(m.weight.numel() for m in model.modules() if type(m).__name__ in ("Linear", "Conv1D"))
    shared = config.vocab_size * config.hidden_size if config.tie_word_embeddings else 0
    held = parameters + shared
    weights = [4 * held, 2 * held, linear * (1 + 4 / STRETCH) + 4 * (held - linear)]
    cache = [block_bytes(layers, heads, width // heads, t) / BLOCK for t in (torch.float32, torch.bfloat16, torch.int8)]
    expected = [
        f"{parameters / 1e6:,.0f} million",
        *(f"{x / 1e9:.2f} GB" for x in weights),
        *(f"{x / 1e3:.0f} MB" for x in cache),
    ]
    table = {row[0]: row[1:] for row in Document("docs/how-to/choose-model.md").table("model")}
    assert table[name] == expected
