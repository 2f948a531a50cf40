"""`score` of texts in which there is nothing to score, and what is refused or told of odd options and outputs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.plan import main as plan
from jobs.score import main
from jobs.verify import main as verify
from tests.end_to_end.score.conftest import Score
from tests.small_runs import INLINE, MODEL, manifest, write


def errors(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(row["error_code"], row["error_message"]) for row in rows if row["error_code"]]


def test_nothing_to_score_after_a_prompt(tmp_path: Path, score: Score) -> None:
    # `ax` is one token: nothing is left for `x`, which must not count as certain
    table = {"prompt": ["a", "a", "The train to "], "said": ["x", "y z", ""]}
    rows = score(MODEL, table, "source.completion_column=said")
    assert errors(rows) == [
        ("EMPTY_PROMPT", "the completion has no token of its own: together with the prompt's end it is one token"),
        ("EMPTY_PROMPT", "the completion is empty"),
    ]
    assert manifest(tmp_path / "out")["totals"]["sums"]["completions"] == 1
    choices = {
        "prompt": ["a", "Dear", "Dear"],
        "ends": [["x", " b"], ["", " Anna"], [" Anna", " it"]],
        "label": [0, 0, 0],
    }
    rows = score(MODEL, choices, "source.endings_column=ends", "source.answer_column=label")
    assert errors(rows) == [
        ("EMPTY_PROMPT", "the ending 'x' has no token of its own: together with the prompt's end it is one token"),
        ("EMPTY_PROMPT", "the ending '' is empty"),
    ]
    assert manifest(tmp_path / "out")["totals"]["sums"]["questions"] == 1


def test_an_end_token_alone_is_scored(score: Score) -> None:
    table = {"prompt": ["Dear", "Dear"], "ids": pa.array([[0], []], pa.list_(pa.int32()))}
    rows = score(MODEL, table, "source.completion_column=ids")
    assert (rows[0]["scored_tokens"], rows[0]["text"], rows[0]["error_code"]) == (1, "", None)
    assert errors(rows) == [("EMPTY_PROMPT", "the completion is empty")]


def test_texts_of_one_token_are_neither_likely_nor_unlikely(tmp_path: Path, score: Score) -> None:
    rows = score(MODEL, {"prompt": ["a", "<|endoftext|>"]})
    ratios = ("perplexity", "word_perplexity", "bits_per_byte")
    assert [[row[name] for name in ratios] for row in rows] == [[None] * 3] * 2
    assert [row["scored_tokens"] for row in rows] == [0, 0]
    assert "figures" not in manifest(tmp_path / "out")


def test_an_output_of_no_rows_is_intact(tmp_path: Path, score: Score, capsys: pytest.CaptureFixture[str]) -> None:
    score(MODEL, {"prompt": pa.array([], pa.string())})
    assert verify([f"output.path={(tmp_path / 'out').resolve()}"]) == 0, capsys.readouterr().out


def test_scores_of_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    source, output = write({"prompt": ["The train to"]}, tmp_path / "in.parquet"), tmp_path / "out"
    words = [f"model.path={MODEL}", f"source.path={source}", f"output.path={output}", *INLINE, "output.report=false"]
    with monkeypatch.context() as older:
        older.setattr("pipeline.work.prepare.VERSION", 1)
        assert main(words) == 0
    (output / "_job" / "manifest.json").unlink()
    assert main(words) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("promptmill: the output folder holds scores of another version")
    assert plan([*words, "job=score"]) == 0
    assert "warning   the output folder holds scores of another version" in capsys.readouterr().out
    assert "choose another output.path" in told
    assert verify([f"output.path={output}"]) == 4
    assert "another version; no part was checked; verify it with that version" in capsys.readouterr().out


def test_a_tokenizer_without_a_first_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    (model / "generation_config.json").unlink()
    for name in ("config.json", "tokenizer_config.json"):
        body = json.loads((model / name).read_text())
        left = {k: v for k, v in body.items() if not re.fullmatch(r"(bos|eos|unk|pad)_token(_id)?", k)}
        (model / name).write_text(json.dumps(left))
    source = write({"prompt": ["a b"], "ends": [["x y"]]}, tmp_path / "in.parquet")
    words = [f"model.path={model}", f"source.path={source}", f"output.path={tmp_path / 'out'}", *INLINE]
    for options in (["score.bos=true"], ["score.unconditional=true", "source.endings_column=ends"]):
        assert main([*words, *options]) == 2
        assert f"promptmill: {options[0]}: the tokenizer names no beginning-of-text token" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert main([*words, "output.report=false"]) == 0  # without it, all is well


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["expect={perplexity:nan}"], "expect.perplexity=nan: must be a number from 0 or [lowest,highest]"),
        (["expect={perplexity:-1}"], "expect.perplexity=-1: must be a number from 0 or [lowest,highest]"),
        (["expect={perplexity:inf}"], "expect.perplexity=inf: must be a number from 0 or [lowest,highest]"),
        (["expect={accuracy:31}"], "expect.accuracy=31: must be a share from 0 to 1, such as 0.31, or [lowest,highest]"),
        (["expect={speed:1}"], "expect.speed=1: must be under the name of a figure: perplexity, "),
        (["expect=3"], "expect=3: must be a mapping of names to values, such as {perplexity:29.94}"),
        (["expect.perplexity=3"], "expect.perplexity: no such key; expect takes one mapping: expect={perplexity:…}"),
        (["benchmark.published=3"], "must be a mapping of names to values, such as {gpt2:{perplexity:29.94}}"),
        (["expect={accuracy:0.5}"], "left out: this run has no such figure without source.endings_column"),
        (["expect={text_perplexity:3}"], "left out: this run has no such figure without source.completion_column"),
        (["source.endings_column=ends", "expect={accuracy:0.5}"], "no such figure without source.answer_column"),
        (["source.endings_column=ends", "expect={perplexity:3}"], "no such figure where endings are scored"),
        (["source.completion_column=prompt", "stats=minimal", "expect={greedy_accuracy:1}"], "without rank in stats.columns"),
        (
            ["source.task=hellaswag", "benchmark.published={demo-model:{accuracy_unconditional:0.3}}"],
            "benchmark.published.demo-model.accuracy_unconditional=0.3: must be left out: this run has no such figure without "
            "score.unconditional=true",
        ),
        (["results=s3://bucket/a.json"], "results=s3://bucket/a.json: is a URI; give a local file"),
        (["results=/proc"], "results=/proc: is a folder; give a file"),
        (["results=/etc/hostname/a.json"], "results=/etc/hostname/a.json: cannot be written: /etc/hostname is no folder"),
    ],
)  # fmt: skip
def test_mistakes_that_are_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:  # fmt: skip
    source = write({"prompt": ["a"], "ends": [["x"]]}, tmp_path / "in.parquet")
    words = [f"model.path={MODEL}", f"source.path={source}", f"output.path={tmp_path / 'out'}", *INLINE, *options]
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("promptmill: ")]
    assert len(lines) == 1 and told in lines[0], lines
    assert not (tmp_path / "out").exists()


def test_options_without_effect_are_told(score: Score, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"prompt": ["Dear", "The"], "ends": [[" Anna"], [" train"]]}
    score(MODEL, table, "source.endings_column=ends", "score.stride=9", "score.separator=x")
    told = capsys.readouterr().err
    assert "score.stride has no effect: a prompt and what follows it are read in one piece" in told
    assert "score.separator has no effect without score.concatenate=true" in told


CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


def test_no_answer_is_opened_after_a_whole_conversation(score: Score) -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Lo"}]
    table = {"talk": [talk], "said": [" there"]}
    (row,) = score(MODEL, table, "source.messages_column=talk", f'source.chat_template="{CHAT}"')
    assert row["text"] == "<user>Hi<assistant>Lo"
    options = ("source.messages_column=talk", f'source.chat_template="{CHAT}"', "source.completion_column=said")
    (row,) = score(MODEL, table, *options)
    assert row["prompt"] == "<user>Hi<assistant>Lo<assistant>"


def test_the_report_and_the_card_say_what_was_scored(tmp_path: Path, score: Score) -> None:
    rows = score(MODEL, {"prompt": ["Weather report for Larkfield", "The train to", "a"]}, "output.report=true")
    page = (tmp_path / "out" / "report.html").read_text()
    figures = manifest(tmp_path / "out")["figures"]
    tokens = sum(row["scored_tokens"] for row in rows)
    for name, value in {"Perplexity": f"{figures['perplexity']:.6g}", "Tokens scored": f"{tokens:,}"}.items():
        assert re.search(rf"<dt><bdi>{name}</bdi></dt><dd><bdi>{re.escape(value)}</bdi>", page), name
    assert not any(words in page for words in ("of prompts", "before temperature", "sampling settings"))
    assert '<p class="of">1 token<' in page
    card = (tmp_path / "out" / "README.md").read_text()
    assert not any(words in card for words in ("synthetic", "generated tokens", "Prompt:"))
    assert f"| scored tokens | {tokens} |" in card and r'| separator | "\\n\\n" |' in card
