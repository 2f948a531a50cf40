"""Completions are expected to end as earlier ones did; rows that stand for others share only what they have in common."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.engine.calibration.known import Endings
from pipeline.types import ErrorCode, PromptRow, Request, RowError, SamplingParams
from pipeline.work.estimate.expect import Lengths, ends_early, shards_of
from pipeline.work.estimate.sample import Sample
from pipeline.work.recipe import open_recipe

OPTIONS: dict[str, Any] = {
    "stats": {"columns": [], "top_logprobs": 0, "prompt_logprobs": False}, "output": {"include_prompt": False},
    "source": {"sampling_column": None}, "sampling": {"n": 1},
}  # fmt: skip


def request(tokens: int = 4, **sampling: Any) -> Request:
    return Request("r", 0, tuple(range(tokens)), SamplingParams(**sampling))


def test_without_endings_all_become_as_long_as_they_may() -> None:
    lengths = Lengths(100)
    assert lengths.expected(request(max_tokens=30), 7) == 30
    assert lengths.expected(request(tokens=80, max_tokens=30), 7) == 20
    assert Lengths(100, Endings(1000, 0, 10)).expected(request(max_tokens=30), 7) == 30
    assert Lengths(100, Endings(10, 10, 10)).expected(request(max_tokens=30), 7) == 1


@pytest.mark.parametrize("most", [10, 64, 500])
def test_endings_give_the_mean_of_a_geometric_distribution(most: int) -> None:
    lengths, chance = Lengths(10_000, Endings(5000, 100, 100)), 0.02
    found = [lengths.expected(request(max_tokens=most), i) for i in range(2000)]
    assert sum(found) / 2000 == pytest.approx((1 - (1 - chance) ** most) / chance, rel=0.02)
    assert min(lengths.expected(request(max_tokens=most, min_tokens=5), i) for i in range(500)) == 5


@pytest.mark.parametrize(
    ("sampling", "early"),
    [
        (SamplingParams(), True), (SamplingParams(ignore_eos=True), False),
        (SamplingParams(ignore_eos=True, stop=("x",)), True), (SamplingParams(ignore_eos=True, choice=("a",)), True),
        (SamplingParams(ignore_eos=True, stop_token_ids=(3,)), True),
    ],
)  # fmt: skip
def test_what_may_end_a_completion(sampling: SamplingParams, early: bool) -> None:
    assert ends_early(sampling) is early


def rows(*prompts: tuple[int, ...]) -> Sample:
    made = [PromptRow(str(i), None, p, SamplingParams(max_tokens=2)) for i, p in enumerate(prompts)]
    bad = PromptRow("x", None, (), SamplingParams(), RowError(ErrorCode.NULL_PROMPT, ""))
    return Sample((*made, bad), pa.table({}), 7, 0.0)


def test_rows_come_again_as_others_with_the_same_beginning() -> None:
    sample = rows((1, 2, 3), (1, 2, 4), (9, 9, 9))
    shards = [list(shard) for shard in shards_of(sample, open_recipe(OPTIONS), Lengths(100), 4, 3)]
    prompts = [[e.request.prompt_token_ids for e in shard] for shard in shards]
    assert prompts[0] == [(1, 2, 3), (1, 2, 4), (9, 9, 9)]  # the fourth row is an error
    again = prompts[1]
    assert [p[:2] for p in again[:2]] == [(1, 2)] * 2 and again[0][2] != 3 and again[1][2] != 4
    assert len(again) == 3 and again[2][0] != 9
    assert prompts[2] == []  # seven rows are all there are
    assert [e.most for e in shards[0]] == [2, 2, 2]


def test_no_rows_make_empty_shards() -> None:
    empty = Sample((), pa.table({}), 0, 0.0)
    assert [list(s) for s in shards_of(empty, open_recipe(OPTIONS), Lengths(100), 4, 1)] == [[]]
