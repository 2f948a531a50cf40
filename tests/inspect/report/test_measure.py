"""What a report counts, against counting it in plain Python, and however the rows come in batches."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.inspect.batch import Batch
from pipeline.inspect.report.measure.distribution import Distribution
from pipeline.inspect.report.measure.examples import Examples, places
from pipeline.inspect.report.measure.phrases import KEPT, Distinct, Phrases, mixed
from pipeline.inspect.report.measure.tally import Tally
from pipeline.inspect.report.measure.twins import NEAR, Twins

RANDOM = np.random.default_rng(5)
TEXTS = [RANDOM.integers(0, 6, length).tolist() for length in (0, 1, 3, 4, 5, 20, 60, 17, 2, 40, 33, 8)] + [
    [1, 2, 3, 4] * 12
]


def batch(texts: list[list[int] | None], **columns: Any) -> Batch:
    made = {
        "row_id": [str(i) for i in range(len(texts))],
        "sample_index": pa.array([0] * len(texts), pa.int32()),
        "text": [None if ids is None else " ".join(map(str, ids)) for ids in texts],
        "token_ids": pa.array(texts, pa.list_(pa.int32())),
        **columns,
    }
    return Batch(pa.RecordBatch.from_pydict(made))


def grams(ids: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]


@pytest.mark.parametrize("split", [len(TEXTS), 5, 1])
def test_ngrams_are_those_of_the_texts(split: int) -> None:
    found = Phrases()
    for start in range(0, len(TEXTS), split):
        some = batch([*TEXTS[start : start + split], None])
        found.add(some, some.lists("token_ids"))
    for n in (1, 2, 3, 4):
        every = [g for ids in TEXTS for g in grams(ids, n)]
        assert (found.distinct[n].total, found.distinct[n].number) == (len(every), len(set(every)))
    four = Counter(g for ids in TEXTS for g in grams(ids, 4))
    frequent = found.frequent(10**6)
    assert dict(frequent) == {g: n for g, n in four.items() if n > 1}
    assert [n for _, n in frequent] == sorted((n for _, n in frequent), reverse=True)
    shares = [1 - len(set(g)) / len(g) for ids in TEXTS if (g := grams(ids, 4))]
    assert found.texts == len(shares) and math.isclose(found.share_sum, sum(shares))
    worst = max(found.worst)
    assert math.isclose(worst.share, max(shares)) and worst.text == " ".join(map(str, TEXTS[-1]))


def test_more_distinct_values_than_are_kept_are_estimated() -> None:
    found = Distinct()
    for start in range(0, 1_000_000, 100_000):
        values = mixed(np.arange(start, start + 100_000, dtype=np.uint64) // np.uint64(2))
        found.add(values)
    assert len(found.least) == KEPT and found.total == 1_000_000
    assert abs(found.number / 500_000 - 1) < 0.02, "five standard errors"


def test_samples_of_one_prompt_are_compared_by_their_trigrams() -> None:
    base = RANDOM.integers(0, 1000, 100).tolist()
    near = [*base[:97], 7, 7, 7]
    far = RANDOM.integers(0, 1000, 100).tolist()
    prompts = [[base, near, far], [base, list(base), far], [far, base], [base]]
    rows = [(str(p), s, ids) for p, samples in enumerate(prompts) for s, ids in enumerate(samples)]

    def alike(a: list[int], b: list[int]) -> bool:
        one, other = set(grams(a, 3)), set(grams(b, 3))
        return len(one & other) / len(one | other) >= NEAR

    pairs = [pair for samples in prompts for pair in combinations(samples, 2)]
    for split in (len(rows), 2, 1):
        found = Twins()
        for start in range(0, len(rows), split):
            names, samples, texts = zip(*rows[start : start + split], strict=True)
            some = batch(list(texts), row_id=list(names), sample_index=pa.array(samples, pa.int32()))
            found.add(some, some.lists("token_ids"))
        assert (found.pairs, found.near) == (len(pairs), sum(alike(a, b) for a, b in pairs))
        assert (found.equal, found.prompts, found.prompts_near) == (1, 3, 2)
        assert found.examples[0].samples == (0, 1) and found.examples[0].texts[0] != found.examples[0].texts[1]


def _sampled(temperature: float) -> Distribution:
    """Tokens drawn from softmax(logits / temperature), with the statistics of the distribution at temperature 1."""
    random, found = np.random.default_rng(3), Distribution()
    for _ in range(40):
        logits = random.normal(0, 2, (500, 50))
        logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        drawn = np.argmax(logits / temperature + random.gumbel(size=logits.shape), axis=1)
        chosen = logp[np.arange(500), drawn].astype(np.float32)
        entropy = -(np.exp(logp) * logp).sum(1).astype(np.float32)
        rank = (1 + (logp > chosen[:, None] + 1e-6).sum(1)).astype(np.int32)
        best = logp.max(1).astype(np.float32)
        lists = {"token_logprobs": chosen, "token_entropies": entropy, "token_ranks": rank}
        columns = {name: pa.array([values]) for name, values in lists.items()}
        tops = pa.array([[[float(b)] for b in best]], pa.list_(pa.list_(pa.float32())))
        some = batch([drawn.tolist()], **columns, top_token_logprobs=tops)
        found.add(some, 500)
    return found


def test_tokens_drawn_from_the_distribution_are_calibrated_and_others_are_not() -> None:
    sums = _sampled(1.0).calibration
    assert sums.tokens == 20_000 and abs(sums.difference) < 4 * sums.standard_error
    expected = np.sqrt(sums.squares) / sums.tokens
    assert math.isclose(sums.standard_error, expected) and 0.001 < sums.standard_error < 0.05
    cold = _sampled(0.6).calibration
    assert cold.difference > 20 * cold.standard_error


def test_bands_count_every_token_once() -> None:
    found = _sampled(1.0)
    for counts in (found.ranks, found.probabilities, found.relative, found.entropies):
        assert counts.sum() == found.tokens == 20_000
    assert found.ranks[3:].sum() == 0 and 10 < found.greatest_rank <= 50
    assert found.relative[-1] >= found.ranks[0], "the most likely token is as likely as itself"
    assert found.least_relative < -1


def test_nulls_in_lists_and_values_that_are_no_numbers_are_left_out() -> None:
    found = Distribution()
    some = batch([[1, 2, 3], None], token_logprobs=pa.array([[None, -1.0, float("nan")], None], pa.list_(pa.float32())))
    found.add(some, 3)
    assert found.probabilities.sum() == 1 and math.isclose(found.logprob, -1.0)


def test_the_tally_counts_rows_reasons_and_errors_with_examples() -> None:
    some = batch(
        [[1, 2], [3], None, None],
        row_id=["a", "a", "b", "<b>"],
        sample_index=pa.array([0, 1, 0, 0], pa.int32()),
        finish_reason=pa.array(["stop", "length", "error", "error"]).dictionary_encode(),
        prompt_tokens=pa.array([5, 5, 0, 3_000_000_0], pa.int32()),
        completion_tokens=pa.array([2, 1, 0, 0], pa.int32()),
        error_code=[None, None, "NULL_PROMPT", "PROMPT_TOO_LONG"],
        error_message=[None, None, "it is null", None],
    )
    found = Tally()
    found.add(some, some.lists("token_ids"))
    assert (found.rows, found.completions, found.prompt_tokens, found.completion_tokens) == (3, 4, 30_000_005, 3)
    assert {reason: counts.nonzero()[0].tolist() for reason, counts in found.lengths.items()} == {
        "length": [1],
        "stop": [2],
    }
    assert found.by_prompt["stop"][3] == 1 and found.by_prompt["error"].sum() == 2
    assert found.errors == {"NULL_PROMPT": 1, "PROMPT_TOO_LONG": 1}
    assert found.examples["NULL_PROMPT"][0].row_id == "b" and found.examples["PROMPT_TOO_LONG"][0].message == ""


def test_rows_to_show_are_spread_and_errors_are_passed_over() -> None:
    chosen = places([("a", 3), ("b", 0), ("c", 97)], 8)
    numbers = sorted([*chosen.get("a", []), *(3 + place for place in chosen["c"])])
    assert len(numbers) == 8 and all(1 <= b - a <= 25 for a, b in pairwise(numbers))
    assert places([], 8) == {} and sum(len(p) for p in places([("a", 2)], 8).values()) == 2
    found = Examples({"a": [1, 3]})
    assert found.begin("a") and not Examples({}).begin("a")
    for start in (0, 2, 4):
        codes = [None if i in (2, 5) else "NULL_PROMPT" for i in range(start, start + 2)]
        found.add(batch([[i] for i in range(start, start + 2)], error_code=codes))
    assert [example.row["token_ids"] for example in found.chosen] == [[2], [5]]
