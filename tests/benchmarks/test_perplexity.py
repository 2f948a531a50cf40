from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import pytest

from benchmarks.parts.perplexity import Change, compare, cut, perplexity, render

NAN = float("nan")


def test_windows_are_cut_one_after_the_other() -> None:
    assert cut(range(7), 3) == [[0, 1, 2], [3, 4, 5]]  # of the last one, no token would be scored
    assert cut(range(8), 3) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert cut(range(2), 3) == [[0, 1]]
    assert cut([], 3) == [] and cut([9], 3) == []


def test_perplexity_by_hand() -> None:
    # the mean of 1/2, 1/8 and 1/4 is geometric: 1/4
    assert perplexity([math.log(1 / 2), math.log(1 / 8), math.log(1 / 4)]) == pytest.approx(4, rel=1e-12)
    assert perplexity([math.log(0.1)] * 5) == pytest.approx(10, rel=1e-12)


def test_a_comparison_by_hand() -> None:
    exact = [math.log(p) for p in (1 / 2, 1 / 2, 1 / 2)]
    found = [math.log(p) for p in (1 / 2, 1 / 4, 1 / 2)]
    # the losses are 0, ln 2, 0: their mean is ln 2 / 3, their variance (ln 2)² (4/9 + 1/9 + 1/9) / 2 = (ln 2)² / 3
    change = compare(found, exact)
    assert change.perplexity == pytest.approx(2 ** (4 / 3), rel=1e-12)
    assert change.relative == pytest.approx(2 ** (1 / 3) - 1, rel=1e-12)
    assert change.error == pytest.approx(2 ** (1 / 3) * math.log(2) / 3, rel=1e-12)
    assert change.apart == pytest.approx(math.log(2) / 3, rel=1e-12)


def test_errors_that_cancel_in_the_perplexity_show_in_the_last_column() -> None:
    change = compare([-1.5, -0.5], [-1.0, -1.0])
    assert change.relative == 0 and change.apart == 0.5


def test_a_better_perplexity_is_negative() -> None:
    assert compare([-1.0, -1.0], [-2.0, -2.0]).relative == pytest.approx(math.exp(-1) - 1)


@pytest.mark.parametrize("bad", [NAN, -math.inf])
def test_what_is_not_finite_is_no_measurement(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        compare([-1.0, bad], [-1.0, -1.0])


def test_tokens_that_are_missing_are_no_measurement() -> None:
    with pytest.raises(ValueError, match="1 tokens scored where 2 were to be"):
        compare([-1.0], [-1.0, -1.0])


def result(*runs: dict[str, Any]) -> dict[str, Any]:
    machine = {"processor": "p", "cores": 2}
    return {
        "model": "m", "text": "t", "scored": 10, "window": 6, "date": "today", "exact": 15.31, "machine": machine,
        "runs": list(runs),
    }  # fmt: skip


def test_the_table() -> None:
    change = Change(perplexity=15.34567, relative=0.00233, error=0.0012, apart=0.056)
    one = {"setting": "int8", "change": asdict(change), "facts": {"linear_kernels": {"int8-compiled": 211}}}
    assert render(result(one)).splitlines() == [
        "m; t: 10 tokens scored in windows of 6; p, 2 cores; today",
        "",
        "| setting | perplexity | against float64 | mean absolute difference of a log-probability | kernels |",
        "|---|---:|---:|---:|---|",
        "| transformers float64 | 15.3100 | | | |",
        "| int8 | 15.3457 | +0.233 % ± 0.120 % | 5.6e-02 | int8-compiled |",
    ]


def test_a_setting_that_failed_has_a_row_and_its_message() -> None:
    text = render(result({"setting": "bfloat16", "error": "dtype='bfloat16': not here"}))
    assert text.splitlines()[-3:] == ["| bfloat16 | failed | | | |", "", "Failed: bfloat16: dtype='bfloat16': not here"]
