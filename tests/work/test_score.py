"""Expectations, tables and result files of `score`, and the tasks of the benchmarks, without a model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigurationError
from pipeline.output.record.counts import Counts
from pipeline.output.record.manifest import Manifest
from pipeline.output.scores.figures import figures
from pipeline.prompts.scored.config import ScoreSource
from pipeline.prompts.scored.detokenize import ptb, wiki
from pipeline.prompts.scored.tasks import TASKS, Example, example_of
from pipeline.types import ErrorCode, RowError
from pipeline.work.score.benchmark import check_expected, compare, table
from pipeline.work.score.config import ScoreConfig, ScoreOutput
from pipeline.work.score.results import check_results, lm_eval_results

QUESTIONS = {"questions": 1000.0}


@pytest.mark.parametrize(
    ("name", "found", "expected", "good"),
    [
        ("perplexity", 29.96, 29.94, True),
        ("perplexity", 29.98, 29.94, False),
        ("perplexity", 30.5, [29, 31], True),
        ("accuracy", 0.5131, 0.512, True),  # one answer, and the rounding of 0.512
        ("accuracy", 0.5136, 0.512, False),
        ("accuracy", 0.3, [0.31, 0.33], False),
    ],
)
def test_what_is_as_expected(name: str, found: float, expected: Any, good: bool) -> None:
    (compared,) = compare({name: found}, QUESTIONS, {name: expected})
    assert compared.good is good
    assert ("OFF" in table([compared])[1]) is not good


def test_a_figure_that_is_not_there_is_off() -> None:
    (compared,) = compare({}, {}, {"perplexity": 3})
    assert not compared.good
    assert "the run has no such figure" in table([compared])[1]


@pytest.mark.parametrize("expect", [{"speed": 1}, {"perplexity": "x"}, {"perplexity": [3, 2]}, {"perplexity": True}, 3])
def test_expectations_that_are_none(expect: Any) -> None:
    with pytest.raises(ValueError, match="expect"):
        check_expected(expect, "expect")


def test_figures_of_nothing() -> None:
    assert figures({}) == {}
    assert (
        figures({"negative_log_likelihood": 0.0, "texts": 0.0, "scored_tokens": 0.0, "words": 0.0, "bytes": 0.0}) == {}
    )
    assert "perplexity" not in figures(
        {"negative_log_likelihood": 1e6, "scored_tokens": 1.0}
    )  # more than float64 holds


PIECES = [
    "s '", " '", " 's", "/' [0-9]/", " @-@ ", " @,@ ", " @.@ ", " : ", " ; ", " . ", " ! ", " ? ", " , ", "(", "( ", ")",
    " )", "[", "]", "{", "}", '"', ' " ', "'", "= = = =", "= = ", "=", " ° ", " \n", "\n ", "\n", " N ", "a", "word", " ",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_the_wiki_rules_are_the_harnesss() -> None:
    harness = pytest.importorskip("lm_eval.tasks.wikitext.preprocess_wikitext")
    rng = random.Random(5)
    for _ in range(20_000):
        text = "".join(rng.choices(PIECES, k=rng.randint(1, 14)))
        assert wiki(text) == harness.wikitext_detokenizer({"page": text})


def test_the_rules_of_the_penn_treebank() -> None:
    text = "the company 's shares do n't fall \n to $ N million \n # 1 's"
    assert ptb(text) == "the company's shares don't fall\nto $1 million\n#1's"


HELLASWAG = {
    "activity_label": "Removing ice", "ctx_a": "A man [header] sits.", "ctx_b": "he",
    "endings": ["[title] melts", "freezes  it"], "label": "1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "row", "due"),
    [
        ("lambada", {"text": "he went to the  house"}, Example((("he went to the ", " house"),), ("house",))),
        (
            "hellaswag", HELLASWAG,
            Example(
                (("Removing ice: A man sits. He", "  melts"), ("Removing ice: A man sits. He", " freezes it")),
                (" melts", "freezes it"), 1,
            ),
        ),
        (
            "piqa", {"goal": "boil", "sol1": "heat", "sol2": "cool", "label": 0},
            Example((("Question: boil\nAnswer:", " heat"), ("Question: boil\nAnswer:", " cool")), ("heat", "cool"), 0),
        ),
        (
            "winogrande", {"sentence": "Ann saw _ run away.", "option1": "Bob", "option2": "Eve", "answer": "2"},
            Example((("Ann saw Bob", " run away."), ("Ann saw Eve", " run away.")), ("run away.", "run away."), 1),
        ),
        (
            "arc", {"question": "Why?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"},
            Example((("Question: Why?\nAnswer:", " x"), ("Question: Why?\nAnswer:", " y")), ("x", "y"), 1),
        ),
        (
            "cbt", {"sentences": ["One .", "Two ."], "question": "A XXXXX .", "options": ["cat", "dog"], "answer": "dog"},
            Example((("One . Two .", " A cat ."), ("One . Two .", " A dog .")), ("A cat .", "A dog ."), 1),
        ),
        ("wikitext", {"page": "a @-@ b"}, Example(whole="a-b", original="a @-@ b")),
        ("ptb", {"sentence": "it 's N"}, Example(whole="it's N", original="it 's N")),
    ],
)  # fmt: skip
def test_tasks(task: str, row: dict[str, Any], due: Example) -> None:
    assert example_of(TASKS[task], row) == due
    assert set(TASKS[task].columns) <= row.keys()


@pytest.mark.parametrize(
    ("task", "row", "told"),
    [
        ("lambada", {"text": "one"}, "a text of one word"),
        ("hellaswag", {**HELLASWAG, "label": ""}, "label is '', not a number"),  # as in its test set
        ("hellaswag", {**HELLASWAG, "label": "4"}, "the answer is 4; there are endings 0 to 1"),
        ("piqa", {"goal": "g", "sol1": "a", "sol2": "b", "label": -1}, "the answer is -1; there are endings 0 to 1"),
        ("winogrande", {"sentence": "no gap", "option1": "", "option2": "", "answer": "1"}, "a sentence without _"),
        ("winogrande", {"sentence": "a _ b", "option1": "", "option2": "", "answer": "3"}, "answer is '3', none of ['1', '2']"),
        (
            "arc", {"question": "q", "choices": {"text": ["x"], "label": ["A"]}, "answerKey": "E"},
            "answerKey is 'E', none of ['A']",
        ),
        ("arc", {"question": "q", "choices": "text", "answerKey": "A"}, "TypeError: string indices must be integers"),
        (
            "cbt", {"sentences": ["s"], "question": "XXXXX", "options": ["cat"], "answer": "dog"},
            "answer is 'dog', none of ['cat']",
        ),
    ],
)  # fmt: skip
def test_rows_of_another_form(task: str, row: dict[str, Any], told: str) -> None:
    made = example_of(TASKS[task], row)
    assert isinstance(made, RowError) and made.code is ErrorCode.BAD_TEMPLATE_ROW
    assert made.message.startswith(f"the row is not of the task's form: {told}")


def test_a_row_without_a_column() -> None:
    assert example_of(TASKS["lambada"], {"text": None}) == RowError(ErrorCode.NULL_PROMPT, "column text is null")


@pytest.mark.filterwarnings("ignore")
def test_the_tasks_are_the_harnesss(tmp_path: Path) -> None:
    utils = pytest.importorskip("lm_eval.tasks.hellaswag.utils")
    (row,) = utils.process_docs(_Rows([HELLASWAG]))
    made = example_of(TASKS["hellaswag"], HELLASWAG)
    assert isinstance(made, Example)
    assert ([context for context, _ in made.pairs], list(made.texts)) == ([row["query"]] * 2, row["choices"])
    names = importlib_winogrande()
    sentence = {"sentence": "Ann saw _ run away.", "option1": "Bob", "option2": "Eve", "answer": "2"}
    of = example_of(TASKS["winogrande"], sentence)
    assert isinstance(of, Example)
    assert [context for context, _ in of.pairs] == names.doc_to_choice(sentence)
    assert of.texts[0] == names.doc_to_target(sentence) and of.answer == names.doc_to_text(sentence)


class _Rows(list[dict[str, Any]]):
    """As much of a data set as the harness uses here."""

    def map(self, function: Any) -> list[dict[str, Any]]:
        return [function(row) for row in self]


def importlib_winogrande() -> Any:
    return pytest.importorskip("lm_eval.tasks.winogrande.preprocess_winogrande")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/questions.parquet", "questions"),
        ("data/texts/", "texts"),
        ("data/first/*.parquet", "first"),
        ("*.parquet", "texts"),
        ("s3://bucket/wiki/part-?.parquet", "wiki"),
    ],
)
def test_the_name_of_a_task_in_a_result_file(path: str, name: str) -> None:
    config = ScoreConfig(source=ScoreSource(path=path), output=ScoreOutput(path="out"))
    manifest = Manifest("0" * 64, "0.1.0", Counts(), {}, (), {})
    assert list(lm_eval_results(config, manifest)["results"]) == [name]


@pytest.mark.parametrize("path", ["/", "/proc", "s3://bucket/x", "/etc/passwd/x", "~nobody-of-this-name/x", "x" * 300])
def test_a_result_file_that_cannot_be_written_is_refused_beforehand(path: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^results={path}: "):
        check_results(path)
