"""The Python and SQL of the pages runs on an output, and what it computes is right."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import entropy

from jobs.cli import main
from pipeline.engine.layers.stats import Distribution, compute
from pipeline.errors import ExitCode
from tests.docs.document import ROOT, Document
from tests.small_runs import generate

STATISTICS = Document("docs/explanation/statistics.md")
SLOW = {"doctor", "plan", "help"}
"""Commands that take long, or only print what has tests of its own."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `outputs/first` in it: the model's own distribution, and an error."""
    folder = tmp_path_factory.mktemp("work")
    given = ["sampling.max_tokens=40", "source.limit=24", "source.id_column=id", "output.rows_per_shard=12"]
    assert generate(ROOT / "examples" / "prompts.parquet", folder / "outputs" / "first", *given) == 0
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(folder / "outputs" / "first" / "data").to_pylist()
    return found


def run(document: Document) -> dict[str, Any]:
    """Run a page's Python from its beginning to its end, and return its names."""
    names: dict[str, Any] = {}
    for block in document.blocks("python"):
        exec(compile(block.text, document.name, "exec"), names)
    return names


def test_an_output_is_read(here: Path, rows: list[dict[str, Any]]) -> None:
    names = run(Document("docs/how-to/read-output.md"))
    ids = [row["row_id"] for row in rows]
    assert (
        list(names["frame"]["row_id"])
        == ids
        == names["lazy"].collect()["row_id"].to_list()
        == names["dataset"]["row_id"]
    )
    surest = sorted(rows, key=lambda row: -row["cumulative_logprob"])
    assert names["surest"].fetchall() == [(row["row_id"], row["text"]) for row in surest[:10]]


def test_statistics_of_a_completion(here: Path, rows: list[dict[str, Any]]) -> None:
    names = run(STATISTICS)
    for row, perplexity, bits in zip(rows, names["perplexity"], names["bits_per_byte"], strict=True):
        mean = math.fsum(row["token_logprobs"]) / len(row["token_ids"])
        assert perplexity == pytest.approx(math.exp(-mean), rel=1e-5)
        assert bits * len(row["text"].encode()) == pytest.approx(
            -math.fsum(row["token_logprobs"]) / math.log(2), rel=1e-5
        )


def test_the_run_is_calibrated(here: Path) -> None:
    names = run(STATISTICS)
    assert len(names["excess"]) > 500
    assert abs(names["mean"]) < 4 * names["standard_error"]


@pytest.mark.parametrize("rows", [1, 8])
def test_statistics_of_a_token(here: Path, rows: int) -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 4, (rows, 5000)).astype(np.float32))
    tokens = logits.argsort(-1, descending=True)[torch.arange(rows), torch.arange(rows) * 7]
    columns = compute(["logprob", "entropy", "rank"], Distribution(logits, tokens))
    statistics = run(STATISTICS)["statistics"]
    for i, (z, token) in enumerate(zip(logits.double().numpy(), tokens.tolist(), strict=True)):
        found = statistics(z, token)
        oracle = log_softmax(z)
        assert found == pytest.approx((oracle[token], entropy(np.exp(oracle)), 1 + 7 * i), rel=1e-12)
        mine = [float(columns[name][i]) for name in ("token_logprobs", "token_entropies", "token_ranks")]
        assert mine == pytest.approx(found, abs=1e-4)


def test_the_query_finds_the_part_of_an_error(here: Path) -> None:
    (block,) = Document("docs/reference/operations.md").blocks("sql")
    assert duckdb.execute(block.text).fetchall() == []
    assert len(duckdb.execute(block.text.replace("IS NOT NULL", "IS NULL")).fetchall()) == 24


def test_the_tutorial_runs_from_its_beginning_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tutorial = Document("docs/tutorial.md")
    commands = [words for words in tutorial.commands() if words[0] not in SLOW]
    assert {"generate", "show", "report", "diff", "verify"} == {words[0] for words in commands}
    for words in commands:
        assert main(words) == (ExitCode.DIFFERENT if words[0] == "diff" else ExitCode.COMPLETE), words
    said = "".join(capsys.readouterr())
    assert said.count(" 64, 64 completions") == 2
    assert "seed: sampling.seed: 0 → 1" in said and "seed: sampling.seed: 0 → 1" in tutorial.text
    rows = run(tutorial)["rows"]
    assert len(rows) == 64 and rows["mean_logprob"].max() <= 0
    first = tmp_path / "outputs" / "first"
    assert len(list((first / "data").iterdir())) == 4 and (first / "report.html").is_file()
