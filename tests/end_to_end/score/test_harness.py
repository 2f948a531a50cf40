"""The same numbers as lm-evaluation-harness on the same model and files; without it, the tests are skipped."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.score.conftest import Rows, Score
from tests.small_runs import MODEL, OPENINGS, manifest, write

pytestmark = pytest.mark.filterwarnings("ignore")
CONTEXT = 256
QUESTIONS: dict[str, list[Any]] = {
    "prompt": [*OPENINGS[:6], "Once there was an old ", "The train to Larkfield leaves at", "Dear Anna,\n", "",
               OPENINGS[7] * 5],
    "choices": [
        [" is dry", " is dry and the wind light", " bear"], [" a den", " his home in a cave", "é"], [" soup", " cake"],
        [" the sea", " Larkfield", " York", " home"], [" York"], ["s", " and found"], ["bear", "cat", "dog"],
        [" ten", " half past ten", " 10:00"], ["greetings", "  greetings"], ["One", "Two"], ["He ate honey.", "honey"],
    ],
    "label": [0, 1, 1, 2, 0, 1, 0, 2, 0, 1, 1],
}  # fmt: skip
TEXTS = [*OPENINGS[:7], "\n begins and ends with blanks \n", OPENINGS[7] * 3, OPENINGS[7] * 12, "a", "Lost"]
CHOICES = ("source.endings_column=choices", "source.answer_column=label", "source.on_long_prompt=truncate_left",
           f"engine.max_model_len={CONTEXT}")  # fmt: skip


@pytest.fixture(scope="module")
def backend() -> Any:
    """The harness's own way to run the demo model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("lm_eval")
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=str(MODEL), device="cpu", dtype="float32", batch_size=1, max_length=CONTEXT)


def asked(kind: str, arguments: Sequence[tuple[str, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]


def likelihoods(rows: Rows) -> list[float]:
    return [-row["negative_log_likelihood"] for row in rows]


@pytest.mark.parametrize("delimiter", ["", " "])
def test_each_ending(backend: Any, score: Score, delimiter: str) -> None:
    pairs = [
        (prompt, delimiter + choice)
        for prompt, choices in zip(QUESTIONS["prompt"], QUESTIONS["choices"], strict=True) for choice in choices
    ]  # fmt: skip
    due = backend.loglikelihood(asked("loglikelihood", pairs), disable_tqdm=True)
    rows = score(MODEL, QUESTIONS, *CHOICES, f'score.delimiter="{delimiter}"')
    assert likelihoods(rows) == pytest.approx([value for value, _ in due], abs=1e-4)
    assert [row["is_greedy"] for row in rows] == [greedy for _, greedy in due]


def test_each_completion(backend: Any, score: Score) -> None:
    pairs = list(zip(QUESTIONS["prompt"], [choices[0] for choices in QUESTIONS["choices"]], strict=True))
    due = backend.loglikelihood(asked("loglikelihood", pairs), disable_tqdm=True)
    table = {"prompt": [prompt for prompt, _ in pairs], "said": [said for _, said in pairs]}
    rows = score(MODEL, table, "source.completion_column=said", *CHOICES[2:])
    assert likelihoods(rows) == pytest.approx([value for value, _ in due], abs=1e-4)


def test_each_whole_text(backend: Any, score: Score) -> None:
    due = backend.loglikelihood_rolling(asked("loglikelihood_rolling", [(text,) for text in TEXTS]), disable_tqdm=True)
    rows = score(MODEL, {"prompt": TEXTS}, "score.windows=rolling", "score.bos=true", CHOICES[3])
    assert max(row["prompt_tokens"] for row in rows) > 2 * CONTEXT  # some need several windows
    assert likelihoods(rows) == pytest.approx(due, abs=1e-4, rel=1e-6)


def evaluated(backend: Any, path: Path, metrics: Sequence[str], **task: Any) -> dict[str, float]:
    """The harness's figures of a task on a local file."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    config = {
        "task": "local", "dataset_path": "parquet", "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test", "metric_list": [{"metric": name} for name in metrics], **task,
    }  # fmt: skip
    found: Any = lm_eval.simple_evaluate(
        model=backend, tasks=[config], bootstrap_iters=0, log_samples=False,
        task_manager=TaskManager(include_defaults=False),  # the list of its own tasks takes long to read
    )  # fmt: skip
    return {name.partition(",")[0]: v for name, v in found["results"]["local"].items() if isinstance(v, float)}


def test_accuracies(backend: Any, tmp_path: Path, score: Score) -> None:
    path = write(QUESTIONS, tmp_path / "task.parquet")
    task = {
        "output_type": "multiple_choice", "doc_to_text": "{{prompt}}", "doc_to_target": "{{label}}",
        "doc_to_choice": "{{choices}}", "target_delimiter": "",
    }  # fmt: skip
    due = evaluated(backend, path, ("acc", "acc_norm", "acc_bytes"), **task)
    due |= {"mutual": evaluated(backend, path, ("acc_mutual_info",), **task)["acc_mutual_info"]}
    score(MODEL, QUESTIONS, *CHOICES, "score.unconditional=true")
    found = manifest(tmp_path / "out")["figures"]
    names = {"accuracy": "acc", "accuracy_per_character": "acc_norm", "accuracy_per_byte": "acc_bytes"}
    for ours, theirs in {**names, "accuracy_unconditional": "mutual"}.items():
        assert found[ours] == pytest.approx(due[theirs], abs=1e-9), ours
    assert len(set(found.values())) > 1  # or the test would show nothing


def test_perplexities(backend: Any, tmp_path: Path, score: Score) -> None:
    path = write({"prompt": TEXTS}, tmp_path / "task.parquet")
    due = evaluated(backend, path, ("word_perplexity", "byte_perplexity", "bits_per_byte"),
                    output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{prompt}}")  # fmt: skip
    score(MODEL, {"prompt": TEXTS}, "score.windows=rolling", "score.bos=true", "score.words=harness", CHOICES[3])
    found = manifest(tmp_path / "out")["figures"]
    for name, value in due.items():
        assert math.log(found[name]) == pytest.approx(math.log(value), abs=1e-4), name
    assert len(due) == 3
