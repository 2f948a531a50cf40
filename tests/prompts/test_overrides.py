from __future__ import annotations

from typing import Any

import pytest

from pipeline.prompts.overrides import Overrides
from pipeline.types import ErrorCode, RowError, SamplingParams

JOB = SamplingParams(temperature=0.5, max_tokens=7, seed=3)


def apply(value: Any) -> SamplingParams | RowError:
    return Overrides(JOB, vocab_size=100).apply(value)


@pytest.mark.parametrize("value", [None, "{}", {}, {"temperature": None, "seed": None}, '{"seed": null}'])
def test_nothing_given_is_the_jobs(value: Any) -> None:
    assert apply(value) == JOB


@pytest.mark.parametrize("value", ['{"temperature": 0, "stop": "x"}', {"temperature": 0, "stop": ["x"], "n": None}])
def test_fields_that_are_not_null_override(value: Any) -> None:
    expected = SamplingParams(temperature=0.0, max_tokens=7, seed=3, stop=["x"])
    assert apply(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "JSON, but no object: [1]"),
        ("null", "JSON, but no object: None"),
        ("[" * 100_000, "not JSON"),
        ('{"temprature": 1}', "temprature: no such sampling parameter"),
        ('{"temperature": -1}', "temperature=-1.0: must be"),
        ('{"temperature": NaN}', "a finite number"),
        ('{"n": true}', "n=True: must be a whole number"),
        ({"max_tokens": 1.5}, "max_tokens=1.5: must be a whole number"),
        ({"min_tokens": 8}, "min_tokens=8: must be from 0 to max_tokens (7)"),
        ({"stop_token_ids": [99, 100]}, "stop_token_ids: 100 is not below the vocabulary's size, 100"),
        ({"stop_token_ids": [None]}, "stop_token_ids=[None]"),
        ('{"stop": "\\ud800"}', "stop: half of a surrogate pair"),
        ({"stop": ["\n" * 10**6, ""]}, "stop="),
    ],
)
def test_what_is_wrong_is_told_in_one_short_line(value: Any, message: str) -> None:
    error = apply(value)
    assert isinstance(error, RowError)
    assert error.code == ErrorCode.BAD_SAMPLING
    assert message in error.message
    assert len(error.message) <= 200
    assert error.message.isprintable()


def test_repeated_values_are_made_once_and_types_are_told_apart() -> None:
    overrides = Overrides(JOB, 100)
    assert overrides.apply({"seed": 1}) is overrides.apply({"seed": 1})
    assert isinstance(overrides.apply({"seed": True}), RowError)
    for seed in range(5000):
        overrides.apply({"seed": seed})
    assert len(overrides._made) <= 4096
