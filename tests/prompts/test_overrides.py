from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from pipeline.errors import ConfigurationError
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
    expected = SamplingParams(temperature=0.0, max_tokens=7, seed=3, stop=("x",))
    assert apply(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "JSON, but no object: [1]"),
        ("null", "JSON, but no object: null"),
        ("[" * 100_000, "not JSON"),
        ('{"temprature": 1}', "temprature: no such sampling parameter"),
        ('{"temperature": -1}', "temperature=-1.0: must be"),
        ('{"temperature": NaN}', "a finite number"),
        ('{"n": true}', "n=true: must be a whole number"),
        ({"top_p": -(10**400)}, "top_p=-inf: must be a finite number"),
        ({"seed": 10**400}, "seed=1000"),
        ({"max_tokens": 1.5}, "max_tokens=1.5: must be a whole number"),
        ({"min_tokens": 8}, "min_tokens=8: must be from 0 to max_tokens (7)"),
        ({"stop_token_ids": [99, 100]}, "stop_token_ids: 100 is not below the vocabulary's size, 100"),
        ({"stop_token_ids": [None]}, "stop_token_ids=[None]"),
        ({"logit_bias": [(3, 1.0), (100, 1.0)]}, "logit_bias: 100 is not below the vocabulary's size, 100"),
        ({"logit_bias": {"3": 101}}, "logit_bias={'3': 101}: must be token ids"),
        ('{"logit_bias": {"x": 1}}', "logit_bias={'x': 1}: must be token ids"),
        ('{"logit_bias": [3]}', "logit_bias=[3]: must be a mapping, or a list of pairs"),
        ({"json_schema": "[" * 100_000}, "json_schema: not JSON: maximum recursion depth"),
        ({"json_schema": "3"}, "json_schema='3': must be null or a mapping"),
        ('{"regex": "\\udfff"}', "regex: half of a surrogate pair"),
        ({"regex": "a" * 10**6, "choice": ["b"]}, "regex and choice: exclude each other"),
        ({"choice": [None]}, "choice=[None]: must be a list of non-empty texts"),
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


@pytest.mark.parametrize(
    "value",
    [
        {"logit_bias": [(5, 1.5), (3, -2)]}, {"logit_bias": {"3": -2, "5": 1.5, "9": None}},
        '{"logit_bias": {"5": 1.5, "3": -2}}', '{"logit_bias": [[3, -2], ["5", 1.5]]}',
    ],
)  # fmt: skip
def test_biases_come_as_maps_structs_and_json(value: Any) -> None:
    made = apply(value)
    assert isinstance(made, SamplingParams)
    assert made.logit_bias == ((3, -2.0), (5, 1.5))


def test_decimals_are_numbers() -> None:
    """As in a struct that DuckDB makes of `{'temperature': 0.7}`."""
    value = {
        "temperature": Decimal("0.7"),
        "max_tokens": Decimal(9),
        "logit_bias": [(5, Decimal("-1.5"))],
        "stop": ["x"],
    }
    made = apply(value)
    assert made == SamplingParams(temperature=0.7, max_tokens=9, seed=3, logit_bias=((5, -1.5),), stop=("x",))
    assert isinstance(made, SamplingParams) and type(made.max_tokens) is int and type(made.temperature) is float


def test_tokens_of_the_job_are_not_the_rows_fault() -> None:
    job = SamplingParams(stop_token_ids=(500,), logit_bias=((500, 1.0),))
    assert isinstance(Overrides(job, vocab_size=100).apply({"seed": 1}), SamplingParams)


def test_parameters_that_cannot_be_followed_are_bad_and_checked_once() -> None:
    checked: list[SamplingParams] = []

    def check(sampling: SamplingParams) -> None:
        checked.append(sampling)
        if sampling.regex == "(":
            raise ValueError("regex: unclosed\ngroup")

    overrides = Overrides(JOB, 100, check)
    for _ in range(3):
        assert (
            overrides.apply(None) is JOB and overrides.apply({"seed": None}) is JOB
        )  # the job's own is checked elsewhere
        error = overrides.apply({"regex": "("})
        assert error == RowError(ErrorCode.BAD_SAMPLING, "regex: unclosed group")
        good = overrides.apply({"regex": "a"})
        assert isinstance(good, SamplingParams) and good.regex == "a"
    assert [s.regex for s in checked] == ["(", "a"]


def test_what_is_not_the_rows_fault_is_let_through() -> None:
    def check(sampling: SamplingParams) -> None:
        raise ConfigurationError("no library")

    with pytest.raises(ConfigurationError):
        Overrides(JOB, 100, check).apply({"regex": "a"})
