"""Benchmarks on small files of their form: figures, exit code 6, the explainer, and the result file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.score.conftest import Score
from tests.small_runs import MODEL, OPENINGS, manifest

PAGES = [f" = Title = \n \n {text} @-@ ( and ) , he said ' so ' . \n" for text in OPENINGS[:4]]


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_wikitext_counts_the_words_and_bytes_of_the_original(tmp_path: Path, score: Score) -> None:
    rows = score(MODEL, {"page": PAGES}, "benchmark=wikitext2")
    assert [row["bytes"] for row in rows] == [len(page.encode()) for page in PAGES]
    assert [row["words"] for row in rows] == [len(page.split()) + 2 for page in PAGES]  # with those of its ends
    assert "-(and), he" in rows[0]["text"] and rows[0]["token_logprobs"][0] is not None
    nats = sum(row["negative_log_likelihood"] for row in rows)
    words = sum(row["words"] for row in rows)
    assert manifest(tmp_path / "out")["figures"]["word_perplexity"] == pytest.approx(math.exp(nats / words))


@pytest.mark.parametrize(
    ("preset", "table", "figures"),
    [
        ("lambada", {"text": ["Once there was an old bear", "The train to Larkfield"]}, {"greedy_accuracy", "text_perplexity"}),
        ("wikitext2-tokens", {"text": ["", " = A = \n", " b c \n"]}, {"perplexity"}),
        ("ptb", {"sentence": ["it 's N", "do n't"]}, {"word_perplexity"}),
        ("enwik8", {"text": ["<page>", "  <b>é</b>"]}, {"bits_per_byte"}),
        ("1bw", {"text": ["One .", "Two ."]}, {"word_perplexity"}),
        (
            "winogrande", {"sentence": ["Ann saw _ run ."], "option1": ["Bob"], "option2": ["Eve"], "answer": ["2"]},
            {"accuracy"},
        ),
        (
            "arc", {"question": ["Why?"], "choices": [{"text": ["x", "y"], "label": ["A", "B"]}], "answerKey": ["B"]},
            {"accuracy", "accuracy_per_character"},
        ),
    ],
)  # fmt: skip
def test_presets(tmp_path: Path, score: Score, preset: str, table: dict[str, Any], figures: set[str]) -> None:
    # the demo model has a shorter context than the one that a preset may name
    more = ("score.stride=100",) if preset == "wikitext2-tokens" else ()
    score(MODEL, table, f"benchmark={preset}", *more)
    assert figures <= manifest(tmp_path / "out")["figures"].keys()


def test_a_figure_that_is_off(tmp_path: Path, score: Score, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"prompt": ["The train to", "Dear"], "ends": [[" Larkfield", " York"], [" Anna", " Tom"]], "label": [0, 0]}
    results = tmp_path / "made" / "lm_eval.json"
    options = ["source.endings_column=ends", "source.answer_column=label", f"results={results}"]
    score(MODEL, table, *options, "expect={accuracy:[0.6,0.9]}", code=6)
    assert "OFF by -" in told(capsys)
    score(MODEL, table, *options, "expect={accuracy:[0,1]}")
    assert "as expected" in told(capsys)
    body = json.loads(results.read_text())
    (metrics,) = body["results"].values()
    assert metrics["acc,none"] == manifest(tmp_path / "out")["figures"]["accuracy"]
    assert body["n-samples"]["in"] == {"original": 2, "effective": 2}


def test_what_a_figure_is_off_by(tmp_path: Path, score: Score, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"prompt": OPENINGS[:5]}
    score(MODEL, table, "score.bos=true")
    due = manifest(tmp_path / "out")["figures"]
    told(capsys)
    score(
        MODEL,
        table,
        f"expect={{perplexity:{due['perplexity']},word_perplexity:{due['perplexity']}}}",
        "explain=true",
        code=6,
    )
    lines = [line.strip() for line in told(capsys).splitlines()]
    assert any(
        line.startswith("the expected figure is that with first token: after the beginning-of-text token (perplexity ")
        for line in lines
    )
    axes = {line.split("  ")[0] for line in lines}
    assert {"unit of division", "de-tokeniser", "stride and context", "first token", "precision"} <= axes
    assert any("word_perplexity as perplexity" in line and "as expected" in line for line in lines)


def test_the_last_token_and_another_version_of_the_text(
    tmp_path: Path, score: Score, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    from tests.small_runs import write

    other = write({"text": ["Once there was an old bear", "The train to York"]}, tmp_path / "other" / "text.parquet")
    score(MODEL, {"text": ["Once there was an old bear", "The train to York"]}, "benchmark=lambada")
    due = manifest(tmp_path / "out")["figures"]["text_perplexity"]
    told(capsys)
    score(MODEL, {"text": ["Once there was an old cat", "The train to York"]}, "benchmark=lambada", "explain=true",
          f"explain_sources=[{other}]", f"expect={{text_perplexity:{due}}}", code=6)  # fmt: skip
    lines = told(capsys)
    assert f"the expected figure is that with version of the text: {other} (text_perplexity" in lines
    assert "last token or last word" in lines


# Two pages longer than the context of 256 tokens, and two that are not.
LONG = "The train to Larkfield leaves at ten @-@ past . Rain ( and wind ) , he 's 3 @.@ 5 years . Once there was an old bear . "
CORPUS = {"prompt": [LONG * 9, LONG * 2, LONG, "Dear Anna , greetings from Larkfield . " * 9]}


def figures(tmp_path: Path, score: Score, *options: str) -> dict[str, float]:
    score(MODEL, CORPUS, *options)
    found: dict[str, float] = manifest(tmp_path / "out")["figures"]
    return found


@pytest.mark.parametrize(
    ("options", "axis"),
    [
        ("score.detokenize=wiki", "de-tokeniser: wiki"),
        ("score.detokenize=ptb", "de-tokeniser: ptb"),
        ("score.windows=rolling", "stride and context: rolling windows"),
        ("score.stride=16", "stride and context: sliding, stride 16"),
        ("engine.max_model_len=128", "stride and context: context 128"),
        ("score.bos=true", "first token: after the beginning-of-text token"),
        ("", "precision: quantization none"),
    ],
)
def test_each_axis_is_named(
    tmp_path: Path, score: Score, capsys: pytest.CaptureFixture[str], options: str, axis: str
) -> None:  # fmt: skip
    due = figures(tmp_path, score, *options.split())["perplexity"]
    told(capsys)
    asked = [
        "explain=true",
        f"expect={{perplexity:[{due * (1 - 1e-6)!r},{due * (1 + 1e-6)!r}]}}",
    ]
    score(MODEL, CORPUS, *asked, *([] if options else ["model.quantization=int8"]), code=6)
    named = [line.strip() for line in told(capsys).splitlines() if line.strip().startswith("the expected figure is ")]
    assert named == [f"the expected figure is that with {axis} (perplexity {due:.6g})"]


def test_another_unit_is_named_alone(tmp_path: Path, score: Score, capsys: pytest.CaptureFixture[str]) -> None:
    due = figures(tmp_path, score)["perplexity"]
    told(capsys)
    score(MODEL, CORPUS, "explain=true", f"expect={{word_perplexity:{due!r}}}", code=6)
    lines = [line.strip() for line in told(capsys).splitlines()]
    # in bfloat16, too, the perplexity is within 0.1 %: two things changed, where one explains the figure
    named = [line for line in lines if line.startswith("the expected ")]
    assert named == [
        f"the expected word_perplexity is the perplexity of this run ({due:.6g}): another unit of division"
    ]
    assert not any("bfloat16" in line and "as expected" in line for line in lines)


def test_two_changes_are_named_where_none_explains_alone(
    tmp_path: Path, score: Score, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    due = figures(tmp_path, score, "score.detokenize=wiki")["perplexity"]
    told(capsys)
    score(MODEL, CORPUS, "explain=true", f"expect={{word_perplexity:{due!r}}}", code=6)
    assert (
        "the expected figure is that with de-tokeniser: wiki and another unit of division (word_perplexity as perplexity"
        in told(capsys)
    )
    score(MODEL, CORPUS, "explain=true", "expect={perplexity:3}", code=6)
    assert "none of these alone gives the expected perplexity" in told(capsys)


def test_an_accuracy_is_not_explained_by_last_tokens(
    tmp_path: Path, score: Score, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    table = {"prompt": ["The train to"] * 3, "ends": [[" York", " Larkfield"]] * 3, "label": [0, 0, 1]}
    options = ["source.endings_column=ends", "source.answer_column=label", "explain=true"]
    score(MODEL, table, *options, "expect={accuracy:[0.4,0.6]}", code=6)
    assert "last token" not in told(capsys)


def test_what_is_published_hinders_no_explanation(
    tmp_path: Path, score: Score, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    asked = ["benchmark=lambada", "stats=minimal", "benchmark.published={demo-model:{greedy_accuracy:0.5}}"]
    table = {"text": ["Once there was an old bear", "The train to York"]}
    score(MODEL, table, *asked, "expect={text_perplexity:3}", "explain=true", code=6)
    assert "none of these alone gives the expected text_perplexity" in told(capsys)


def test_a_model_of_which_nothing_is_published(score: Score, capsys: pytest.CaptureFixture[str]) -> None:
    score(MODEL, {"text": ["Once there was an old bear"]}, "benchmark=lambada")
    assert "lambada: no figure of demo-model is known to compare with; there are those of gpt2, gpt2-xl" in told(capsys)


def test_what_reads_results_of_the_harness_reads_ours(tmp_path: Path, score: Score) -> None:
    utils = pytest.importorskip("lm_eval.utils")
    results = tmp_path / "lm_eval.json"
    score(
        MODEL, {"text": ["Once there was an old bear", "The train to York"]}, "benchmark=lambada", f"results={results}"
    )
    body = json.loads(results.read_text())
    found = manifest(tmp_path / "out")["figures"]
    table = utils.make_table(body)
    for name, value in (("acc", found["greedy_accuracy"]), ("perplexity", found["text_perplexity"])):
        assert any(name in line and f"{value:.4f}" in line for line in table.splitlines()), table
    # the keys that the harness writes of every task, and of the model
    (task,) = body["results"].values()
    assert (task["name"], task["alias"], task["sample_len"]) == ("lambada", "lambada", 2)
    assert body["model_name_sanitized"] == utils.sanitize_model_name(str(MODEL))
    assert {"model", "model_args", "model_dtype", "model_revision", "model_sha", "batch_size", "limit"} <= body[
        "config"
    ].keys()
    assert isinstance(body["date"], float)
