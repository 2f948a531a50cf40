"""Reports of a small run, read as HTML; a run is made once and changed in copies."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.options.arguments import Arguments
from jobs.options.compose import compose_runs
from jobs.options.origin import origin_of
from jobs.report import main
from jobs.score import main as score
from pipeline.inspect.output import open_output
from pipeline.inspect.report.measure import measured
from pipeline.inspect.report.report import made
from pipeline.inspect.report.subject import Origin
from pipeline.output.record.prediction import Prediction, put_prediction
from pipeline.store.base import open_store
from pipeline.work.config import GenerateConfig
from pipeline.work.prepare import prepare
from tests.small_runs import INLINE, MODEL, generate, write

HOSTILE = "</script><script>alert(1)</script><b onclick=x>\u202e\u2066 \x00 \ufffd {{7*7}}"


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    prompts = [*(f"Weather report for {c}" for c in "ABCDEFGH"), None, HOSTILE]
    source = write({"id": [*map(str, range(9)), HOSTILE], "prompt": prompts}, folder / "in" / "p.parquet")
    assert generate(
        source, folder / "out", "source.id_column=id", "sampling.n=2", "sampling.max_tokens=24", "stats.top_logprobs=2",
        "output.rows_per_shard=4", "sampling.top_k=0",
    ) == 0  # fmt: skip
    return folder / "out"


@pytest.fixture
def output(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "out")
    return tmp_path / "out"


def reported(output: Path) -> Page:
    return Page(made(open_output(str(output)), origin_of).decode())


def emptied(output: Path, *columns: str, keep: int | None = None) -> None:
    """Take columns out of all parts, and rows beyond the first ones."""
    for part in (output / "data").iterdir():
        table = pq.read_table(part)
        metadata = table.schema.metadata
        table = table.drop_columns([c for c in columns if c in table.column_names]).replace_schema_metadata(metadata)
        pq.write_table(table if keep is None else table.slice(0, keep), part)


def test_the_page_says_what_came_out(original: Path) -> None:
    page = reported(original)
    table = pa.concat_tables(pq.read_table(p) for p in sorted((original / "data").iterdir()))
    tokens = sum(n or 0 for n in table.column("completion_tokens").to_pylist())
    assert page.text.count(f"{tokens:,}") >= 2
    assert page.text.count("20 generations by demo-model") >= 1
    assert "Complete, 10 % of the rows are errors:" in page.text and "2 NULL_PROMPT" in page.text
    assert "Calibration holds" in page.text or "Calibration does not hold" in page.text
    titles = {"Distribution", "Texts", "Tokens", "The run", "Origin"}
    assert titles <= set(page.words) and "Samples that are alike" in page.words
    spans = [a for tag, a in page.tags if tag == "span" and a.get("role") == "option"]
    shown = {a["data-id"] for a in spans}
    assert shown <= {str(i) for ids in table.column("token_ids").to_pylist() for i in ids or ()} and len(spans) > 50
    assert all({"data-r", "data-p", "data-e", "data-a"} <= a.keys() for a in spans)
    figures = sum(tag == "figure" for tag, _ in page.tags)
    assert figures == sum(tag == "details" for tag, _ in page.tags) >= 8, "every plot has its numbers"


def test_hostile_texts_are_texts(original: Path) -> None:
    page = reported(original)
    assert HOSTILE.split("\u202e")[0] in "".join(page.words)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not [a for _, a in page.tags if any(name.startswith("on") or name == "style" for name in a)]
    assert {"U+202E", "U+2066"} <= set(page.words)


def test_the_same_output_gives_the_same_bytes_wherever_it_lies_and_however_it_is_read(
    original: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = made(open_output(str(original)), origin_of)
    assert main([str(output)]) == 0
    first = (output / "report.html").read_bytes()
    assert first.startswith(once)
    monkeypatch.setattr(measured, "TOKENS_AT_ONCE", 30)
    assert main([f"output.path={output}"]) == 0
    assert (output / "report.html").read_bytes() == first


def test_the_command_makes_the_same_plan(original: Path) -> None:
    command = origin_of(open_output(str(original))).command
    assert command is not None
    program, job, *words = shlex.split(command)
    assert (program, job) == ("promptmill", "generate")
    config = compose_runs("generate", GenerateConfig, Arguments(tuple(words)))[0].config
    assert config is not None
    assert prepare(config).job.plan.plan_id == json.loads((original / "_job" / "plan.json").read_text())["plan_id"]


def test_a_prediction_is_held_against_what_came(output: Path) -> None:
    assert "predicted" not in reported(output).text
    put_prediction(
        open_store(str(output)),
        Prediction(
            10, 1, 100, 480, seconds=1e6, tokens_per_second=50.0, limit_tokens_per_second=1e9, memory_bytes=10**9
        ),
    )
    page = reported(output)
    assert "Predicted and actual" in page.words and "of the limit)" in page.text
    assert "Rows that are errors11100%" in page.text, "input rows, of which each gives two output rows"
    assert "where 11 d 13 h were predicted" in page.text and "all 1.0 GB" in page.text


def test_an_unfinished_output_says_so(output: Path) -> None:
    (output / "_job" / "manifest.json").unlink()
    next(iter(sorted((output / "data").iterdir()))).unlink()
    assert "Not finished: 6 of 10 rows are there (60 %)" in reported(output).text


def test_an_output_without_statistics_shows_its_texts(output: Path) -> None:
    emptied(output, "token_logprobs", "token_entropies", "token_ranks", "top_token_ids", "top_token_logprobs")
    page = reported(output)
    assert "has no statistics (stats.columns=[])" in page.text and "nothing to colour them by" in page.text
    assert not [a for _, a in page.tags if a.get("name") == "colouring"]


@pytest.mark.parametrize("keep", [0, 1])
def test_rows_of_a_complete_run_that_are_gone(output: Path, keep: int) -> None:
    emptied(output, keep=keep)
    page = reported(output)
    assert f"Damaged: of the 10 rows of a complete run, {3 * keep} are there" in page.text
    assert "Complete" not in page.text


def test_an_empty_input(tmp_path: Path) -> None:
    source = write({"prompt": pa.array([], pa.string())}, tmp_path / "p.parquet")
    assert generate(source, tmp_path / "out") == 0
    assert "Complete and empty: the input has no rows." in reported(tmp_path / "out").text


def test_only_errors(tmp_path: Path) -> None:
    source = write({"prompt": pa.array([None] * 3, pa.string())}, tmp_path / "p.parquet")
    assert generate(source, tmp_path / "out") == 0
    assert "every row is an error: 3 of 3 are NULL_PROMPT" in reported(tmp_path / "out").text


def test_endings_that_are_scored_are_no_samples(tmp_path: Path) -> None:
    table = {
        "sentence": ["The train to _ is late today."] * 3,
        "option1": ["A"] * 3,
        "option2": ["B"] * 3,
        "answer": ["1"] * 3,
    }
    source, output = write(table, tmp_path / "p.parquet"), tmp_path / "out"
    words = [f"model.path={MODEL}", f"source.path={source}", f"output.path={output}", "source.task=winogrande"]
    assert score([*words, "output.report=false", *INLINE]) == 0
    text = reported(output).text
    assert "Complete, without an error" in text and "6 scores by demo-model" in text
    assert "Samples that are alike" not in text and "pairs of samples" not in text


def test_without_plan_configuration_manifest_and_events(output: Path) -> None:
    shutil.rmtree(output / "_job")
    page = reported(output)
    assert "shown by their ids" in page.text and "no event log" in page.text
    assert made(open_output(str(output)), lambda _: Origin()).decode()


def test_damage_is_told_in_one_line(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = sorted((output / "data").iterdir())[1]
    part.write_bytes(part.read_bytes()[:-100])
    assert main([str(output)]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if not re.match(r"\d\d:\d\d:\d\d INFO ", line)]
    assert len(told) == 1 and f"/{part.name} cannot be read: " in told[0], told
    assert not (output / "report.html").exists()


def test_a_report_html_of_somebody_else_stays(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (output / "report.html").write_text("mine")
    assert main([str(output)]) == 0
    assert (output / "report.html").read_text() == "mine" and (output / "_job" / "report.html").is_file()
    assert capsys.readouterr().out == f"{output}/_job/report.html\n"
