"""The benchmarks' tasks: rows in the data sets' own columns → what is scored of them.

A task is a function of one row. Its prompts, endings and answers are those of lm-evaluation-harness, zero-shot, where that has
the task; `cbt` follows its paper.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.prompts.scored.detokenize import ptb, wiki
from pipeline.types import ErrorCode, RowError
from pipeline.wording import brief, one_line

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Example:
    """What is scored of a row: a whole text, or the second text of each pair.

    Attributes:
        pairs: (context, what follows), with the blank between them in the latter.
        texts: What follows, without that blank, whose length counts.
        answer: The number of the right pair; None: there is none.
        whole: The whole text; None: pairs are scored.
        original: What the whole text was made of, whose bytes and words count.
    """

    pairs: tuple[tuple[str, str], ...] = ()
    texts: tuple[str, ...] = ()
    answer: int | None = None
    whole: str | None = None
    original: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A benchmark's task.

    Attributes:
        columns: The data set's columns that it reads.
        make: A row → what is scored. A row that is not of the data set's form makes it raise an exception.
        paired: Whether it scores pairs.
        choice: Whether one of several is the answer.
    """

    columns: tuple[str, ...]
    make: Callable[[Row], Example]
    paired: bool = True
    choice: bool = True


def _endings(context: str, endings: Sequence[str], answer: int) -> Example:
    if not 0 <= answer < len(endings):
        raise ValueError(f"the answer is {answer}; there are endings 0 to {len(endings) - 1}")
    return Example(tuple((context, f" {ending}") for ending in endings), tuple(endings), answer)


def _number(row: Row, column: str) -> int:
    """Return the number of the right ending."""
    value = row[column]
    if not isinstance(value, int) and not str(value).isdecimal():
        raise ValueError(f"{column} is {brief(value)}, not a number")
    return int(value)


def _place(row: Row, column: str, known: Sequence[Any]) -> int:
    """Return where the value of a column is among those that there are."""
    if row[column] not in known:
        raise ValueError(f"{column} is {brief(row[column])}, none of {brief(list(known))}")
    return list(known).index(row[column])


def _whole(column: str, detokenize: Callable[[str], str]) -> Callable[[Row], Example]:
    return lambda row: Example(whole=detokenize(row[column]), original=row[column])


def _lambada(row: Row) -> Example:
    """The last word after all others."""
    before, blank, last = row["text"].rpartition(" ")
    if not blank:
        raise ValueError("a text of one word")
    return Example(((before, f" {last}"),), (last,))


def _wikihow(text: str) -> str:
    """Take away the marks of WikiHow's articles, as the harness does."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def _hellaswag(row: Row) -> Example:
    context = _wikihow(f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}")
    return _endings(context, [_wikihow(ending) for ending in row["endings"]], _number(row, "label"))


def _piqa(row: Row) -> Example:
    return _endings(f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]], _number(row, "label"))


def _winogrande(row: Row) -> Example:
    """The rest of the sentence after each option: partial scoring."""
    before, mark, after = row["sentence"].partition("_")
    if not mark:
        raise ValueError("a sentence without _")
    rest = after.strip()
    pairs = tuple((before + row[option], f" {rest}") for option in ("option1", "option2"))
    return Example(pairs, (rest, rest), _place({"answer": str(row["answer"])}, "answer", ("1", "2")))


def _arc(row: Row) -> Example:
    choices = row["choices"]
    return _endings(
        f"Question: {row['question']}\nAnswer:", choices["text"], _place(row, "answerKey", choices["label"])
    )


def _cbt(row: Row) -> Example:
    """The whole question with each option in its gap, after the twenty sentences."""
    question, options = row["question"], row["options"]
    filled = [question.replace("XXXXX", option) for option in options]
    return _endings(" ".join(row["sentences"]), filled, _place(row, "answer", options))


TASKS: dict[str, Task] = {
    "wikitext": Task(("page",), _whole("page", wiki), paired=False, choice=False),
    "ptb": Task(("sentence",), _whole("sentence", ptb), paired=False, choice=False),
    "lambada": Task(("text",), _lambada, choice=False),
    "hellaswag": Task(("activity_label", "ctx_a", "ctx_b", "endings", "label"), _hellaswag),
    "piqa": Task(("goal", "sol1", "sol2", "label"), _piqa),
    "winogrande": Task(("sentence", "option1", "option2", "answer"), _winogrande),
    "arc": Task(("question", "choices", "answerKey"), _arc),
    "cbt": Task(("sentences", "question", "options", "answer"), _cbt),
}
"""Name → task."""


def example_of(task: Task, row: Mapping[str, Any]) -> Example | RowError:
    """Return what a task makes of a row, or why it makes nothing.

    Args:
        task: The task.
        row: Its columns' values, or the reasons why they cannot be had.
    """
    bad = next((value for value in row.values() if isinstance(value, RowError)), None)
    if bad is not None:
        return bad
    missing = next((name for name, value in row.items() if value is None), None)
    if missing is not None:
        return RowError(ErrorCode.NULL_PROMPT, f"column {missing} is null")
    try:
        return task.make(row)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        message = f"the row is not of the task's form: {why}"
        return RowError(ErrorCode.BAD_TEMPLATE_ROW, one_line(message))
