"""Long texts in windows: each token's log-probability against float64 by the procedure of transformers' guide."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.end_to_end.score.conftest import Score
from tests.engine.small.tiny_models import END, random_prompts

CONTEXT = 1024
LENGTHS = (1, 2, 1023, 1024, 1025, 2048, 2049, 5000)
Exact = Callable[[Sequence[int]], np.ndarray[Any, Any]]


def guide(exact: Exact, ids: Sequence[int], stride: int) -> list[float | None]:
    """What the loop of https://huggingface.co/docs/transformers/perplexity scores, token by token."""
    found: list[float | None] = [None] * len(ids)
    previous = 0
    for begin in range(0, len(ids), stride):
        end = min(begin + CONTEXT, len(ids))
        targets = end - previous
        for place, value in enumerate(exact(ids[begin:end]) if end - begin > 1 else [], start=begin + 1):
            if place >= end - targets:
                assert found[place] is None
                found[place] = float(value)
        previous = end
        if end == len(ids):
            break
    return found


def harness(exact: Exact, ids: Sequence[int]) -> list[float | None]:
    """lm-evaluation-harness' rolling windows, `get_rolling_token_windows` and `make_disjoint_window`, written out."""
    found: list[float | None] = list(exact([END, *ids[:CONTEXT]]))
    while len(found) < len(ids):
        end = min(len(found) + CONTEXT, len(ids))
        found += list(exact(ids[end - CONTEXT - 1 : end]))[-(end - len(found)) :]
    return found


def assert_scores(rows: list[dict[str, Any]], due: Sequence[list[float | None]]) -> None:
    for row, values in zip(rows, due, strict=True):
        found = row["token_logprobs"]
        assert [v is None for v in found] == [v is None for v in values]
        scored = [v for v in values if v is not None]
        np.testing.assert_allclose([v for v in found if v is not None], scored, atol=1e-4)
        assert row["scored_tokens"] == len(scored) and row["prompt_tokens"] == len(values)
        assert row["negative_log_likelihood"] == pytest.approx(-sum(scored), rel=1e-6)
        if scored:
            assert row["perplexity"] == pytest.approx(math.exp(-sum(scored) / len(scored)), rel=1e-5)
        else:
            assert row["perplexity"] is None


@pytest.mark.parametrize("stride", [512, 1024, 300])
def test_sliding_windows(long_model: Path, exact: Exact, score: Score, stride: int) -> None:
    texts = random_prompts(7, LENGTHS)
    rows = score(long_model, {"ids": texts}, "source.token_ids_column=ids", f"score.stride={stride}")
    assert_scores(rows, [guide(exact, ids, stride) for ids in texts])


def test_a_stride_of_one(long_model: Path, exact: Exact, score: Score) -> None:
    texts = random_prompts(8, (1, 1023, 1024, 1025, 1040))
    rows = score(long_model, {"ids": texts}, "source.token_ids_column=ids", "score.stride=1")
    assert_scores(rows, [guide(exact, ids, 1) for ids in texts])


@pytest.mark.slow
def test_a_stride_of_one_on_a_long_text(long_model: Path, exact: Exact, score: Score) -> None:
    (ids,) = random_prompts(9, (5000,))
    rows = score(long_model, {"ids": [ids]}, "source.token_ids_column=ids", "score.stride=1")
    assert_scores(rows, [guide(exact, ids, 1)])


def test_the_first_token_after_a_beginning(long_model: Path, exact: Exact, score: Score) -> None:
    texts = random_prompts(10, LENGTHS)
    rows = score(long_model, {"ids": texts}, "source.token_ids_column=ids", "score.stride=512", "score.bos=true")
    assert_scores(rows, [guide(exact, [END, *ids], 512)[1:] for ids in texts])
    # a text that begins so already is not begun twice
    again = score(long_model, {"ids": [[END, *ids] for ids in texts]}, "source.token_ids_column=ids", "score.stride=512",
                  "score.bos=true")  # fmt: skip
    assert [row["token_logprobs"][1:] for row in again] == [row["token_logprobs"] for row in rows]


def test_rolling_windows(long_model: Path, exact: Exact, score: Score) -> None:
    texts = random_prompts(11, LENGTHS)
    rows = score(long_model, {"ids": texts}, "source.token_ids_column=ids", "score.windows=rolling", "score.bos=true")
    assert_scores(rows, [harness(exact, ids) for ids in texts])


def test_many_rows_as_one_text(long_model: Path, exact: Exact, score: Score) -> None:
    lines: list[str | None] = [f"line {i}: the cat {'and the cat ' * (i % 7)}" for i in range(120)]
    lines[3], lines[40], lines[41], lines[119] = "", None, "", ""
    joined = "\n\n".join(line for line in lines if line is not None)
    options = ["source.prompt_column=text", "score.concatenate=true", "score.stride=700"]
    rows = score(long_model, {"text": lines}, *options)
    assert [row["error_code"] for row in rows] == ["NULL_PROMPT" if line is None else None for line in lines]
    from transformers import AutoTokenizer

    ids: Any = AutoTokenizer.from_pretrained(long_model)(joined)["input_ids"]
    assert [i for row in rows for i in row["token_ids"] or []] == ids
    due = guide(exact, ids, 700)
    flat = {"token_logprobs": [v for row in rows for v in row["token_logprobs"] or []]}
    assert [v is None for v in flat["token_logprobs"]] == [v is None for v in due]
    np.testing.assert_allclose(flat["token_logprobs"][1:], np.array(due[1:], float), atol=1e-4)
    assert sum(row["bytes"] or 0 for row in rows) == len(joined.encode())
    # however the rows are divided into parts, the rows are the same
    assert score(long_model, {"text": lines}, *options, "output.rows_per_shard=7") == rows
