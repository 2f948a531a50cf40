"""Rows in the terminal, of outputs in every state."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.options.spelling import tokenizer_of
from jobs.show import main
from pipeline.inspect.config import InspectedOutput, ShowConfig
from pipeline.inspect.show.show import show
from pipeline.output.part import part_name
from tests.small_runs import generate, prompts, write

HOSTILE = "\x1b[31mred\x1b[0m \u202egnirts\x07 [bold]x[/bold]\r\nnext"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output of three parts; row 1 has a hostile prompt and a long id, row 3 is an error."""
    folder = tmp_path_factory.mktemp("run")
    table = prompts(9)
    texts, ids = (table.column(name).to_pylist() for name in ("prompt", "id"))
    texts[1], ids[2] = HOSTILE, "007"
    table = table.set_column(1, "prompt", pa.array(texts, pa.string())).set_column(0, "id", pa.array(ids))
    options = ("source.id_column=id", "source.keep_columns=[topic]", "sampling.n=2", "output.rows_per_shard=3")
    assert generate(write(table, folder / "in.parquet"), folder / "out", *options) == 0
    return folder / "out"


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def names(text: str) -> list[str]:
    return re.findall(r"^(\S+ #\d)  ", text, re.MULTILINE)


def test_the_first_rows(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, run, "limit=3")
    assert names(text) == ["row-0000 #0", "row-0000 #1", "row-0001 #0"]
    assert "topic: topic 0" in text and text.endswith("the first 3 rows; limit=20 shows more\n")
    everything = shown(capsys, run, "limit=100")
    assert len(names(everything)) == 18 and "limit=" not in everything


def test_one_row_by_its_id(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert names(shown(capsys, f"output.path={run}", "row_id=007")) == ["007 #0", "007 #1"]
    assert shown(capsys, run, "row_id=7") == "no row matches\n"
    assert shown(capsys, run, 'row_id=a="b" and {c}') == "no row matches\n"


def test_a_filter_reads_no_more_than_it_must(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, run, "where=finish_reason=error and sample_index=1")
    assert names(text) == ["row-0003 #1"] and "→ error NULL_PROMPT: the prompt is null" in text
    assert names(shown(capsys, run, "where='topic=\"topic 1\"'")) == names(shown(capsys, run, 'where=topic="topic 1"'))


def test_nothing_that_is_shown_moves_the_cursor(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for tokens in ("tokens=false", "tokens=true"):
        text = shown(capsys, run, "row_id=row-0001", tokens)
        assert not set("\x1b\u202e\x07\r") & set(text)
        assert r"\x1b[31mred" in text and "[bold]x[/bold]" in text and "⏎\nnext" in text


def test_tokens_are_coloured_on_a_terminal_and_their_shares_are_told(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ShowConfig(output=InspectedOutput(path=str(run)), row_id="row-0004", tokens=True)
    coloured = "".join(show(config, tokenizer_of, coloured=True, width=80))
    assert "rank of a token: " in coloured and "\x1b[32m" in coloured
    plain = shown(capsys, run, "row_id=row-0004", "tokens=true")
    assert "\x1b" not in plain and "(ranks: " in plain
    (text,) = (
        row
        for row in pq.read_table(run / "data").to_pylist()
        if (row["row_id"], row["sample_index"]) == ("row-0004", 0)
    )
    stripped = re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert f"→ {text['text']}" in stripped


def test_without_a_tokenizer_the_ids_are_shown(run: Path) -> None:
    config = ShowConfig(output=InspectedOutput(path=str(run)), row_id="row-0004", tokens=True)
    (ids,) = (
        r["token_ids"]
        for r in pq.read_table(run / "data").to_pylist()
        if (r["row_id"], r["sample_index"]) == ("row-0004", 0)
    )
    text = "".join(show(config, lambda output: None, coloured=False, width=80))
    assert "→ " + "".join(f"#{i} " for i in ids).strip() in text


def test_an_output_in_the_midst_of_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, tmp_path / "half")
    (tmp_path / "half" / "_job" / "manifest.json").unlink()
    parts = sorted((tmp_path / "half" / "data").iterdir())
    parts[0].unlink()
    text = shown(capsys, tmp_path / "half", "limit=1")
    assert names(text) == ["row-0003 #0"] and "not finished: 2 of 3 parts are committed" in text
    for part in parts[1:]:
        part.unlink()
    assert main([str(tmp_path / "half")]) == 2
    assert "no part is committed yet" in capsys.readouterr().err


def test_parts_of_another_plan_are_left_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run, tmp_path / "mixed")
    part = sorted((tmp_path / "mixed" / "data").iterdir())[0]
    shutil.copy(part, tmp_path / "mixed" / part_name("00000000", 0, 1))
    (tmp_path / "mixed" / "README.md").write_text("mine")
    assert len(names(shown(capsys, tmp_path / "mixed", "limit=100"))) == 18


def test_an_output_of_errors_only_and_columns_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    table = pa.table({"row_id": ["a"], "sample_index": [0], "error_code": ["TIMEOUT"], "error_message": ["x" * 5000]})
    pq.write_table(table, tmp_path / part_name("0123abcd", 0, 1))
    text = shown(capsys, tmp_path, "tokens=true")
    assert "a #0" in text and "→ error TIMEOUT: xxx" in text and len(text) < 1500
    assert "tokens have no colours: the output has no token_ranks" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "output.path is required: the output's folder"),
        (["OUT", "OUT"], "OUT: not KEY=VALUE; output.path is given already"),
        (["OUT", "limit=0"], "limit=0: must be a number of rows from 1"),
        (["OUT", "limit=few"], "limit=few: must be a whole number"),
        (["OUT", "tokens=maybe"], "tokens=maybe: must be true or false"),
        (["OUT", "where="], "where='': must be such as finish_reason=error"),
        (["OUT", "where=finish_reson=error"], "where: 'finish_reson': no such column; did you mean 'finish_reason'?"),
        (["OUT", "where=prompt_tokens>=many"], "where: prompt_tokens=many: the column is a number"),
        (["OUT", "rowid=3"], "rowid: no such key; did you mean row_id?"),
        (["OUT", "--tokens"], "--tokens: no such flag"),
        (["nowhere"], "output.path=nowhere: holds no output: neither"),
        (["hf://datasets/x"], "output.path='hf://datasets/x': must be a directory, or a URI"),
    ],
)
def test_mistakes_are_one_line(words: list[str], told: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run) if word == "OUT" else word for word in words]) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.replace(str(run), "OUT").startswith(f"promptmill: {told}"), line
