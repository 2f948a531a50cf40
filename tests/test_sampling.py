"""What sampling parameters may be, and what becomes of them when they are given in other forms."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning.fingerprint import digest
from pipeline.sampling import STRUCTURED, SamplingParams
from pipeline.work.sampling import SamplingConfig

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"enum": ["é", None, 1.5]}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logit_bias": {5: 100.5}}, "logit_bias={5: 100.5}: must be token ids (whole numbers from 0), each once, with"),
        ({"logit_bias": {5: float("nan")}}, "logit_bias={5: nan}: must be"),
        ({"logit_bias": {5: True}}, "logit_bias={5: True}: must be"),
        ({"logit_bias": {5: "1"}}, "logit_bias={5: '1'}: must be"),
        ({"logit_bias": {-1: 1}}, "logit_bias={-1: 1}: must be"),
        ({"logit_bias": {"-1": 1}}, "logit_bias={'-1': 1}: must be"),
        ({"logit_bias": {"٣": 1}}, "logit_bias={'٣': 1}: must be"),
        ({"logit_bias": {True: 1}}, "logit_bias={True: 1}: must be"),
        ({"logit_bias": {1.0: 1}}, "logit_bias={1.0: 1}: must be"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias={'999"),
        ({"logit_bias": {5: 1, "5": 2}}, "logit_bias={'5': 2}: must be token ids (whole numbers from 0), each once"),
        ({"bad_words": [""]}, "bad_words=['']: must be a list of non-empty texts"),
        ({"bad_words": [True]}, "bad_words=[True]: must be"),
        ({"bad_words": ["\ud800"]}, "bad_words: half of a surrogate pair is no text"),
        ({"choice": ["a", 1]}, "choice=['a', 1]: must be"),
        ({"choice": ["\udfff"]}, "choice: half of a surrogate pair"),
        ({"regex": ""}, "regex='': must be null or a regular expression"),
        ({"regex": "\ud800"}, "regex: half of a surrogate pair"),
        ({"json_schema": []}, "json_schema=[]: must be null or a mapping, or the JSON text of one"),
        ({"json_schema": "3"}, "json_schema='3': must be null or a mapping"),
        ({"json_schema": "{"}, "json_schema: not JSON: Expecting property name"),
        ({"json_schema": '{"maximum": NaN}'}, "json_schema: not JSON: Out of range float"),
        ({"json_schema": {"a": {1, 2}}}, "json_schema: not JSON: Object of type set"),
        ({"json_schema": "[" * 100_000}, "json_schema: not JSON: maximum recursion depth"),
        ({"json_schema": '{"const": "\\ud800"}'}, "json_schema: half of a surrogate pair"),
        ({"regex": "a", "choice": ["a"]}, "regex and choice: exclude each other; give one of regex, choice, json_schema"),
        ({"regex": "a", "json_schema": {}}, "regex and json_schema: exclude each other"),
        ({"stop": ["\ud800"]}, "stop: half of a surrogate pair"),
    ],
)  # fmt: skip
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        SamplingParams(**changes)
    assert str(caught.value).startswith(message)


@given(st.dictionaries(st.integers(0, 2**40), st.floats(-100, 100), max_size=5), st.randoms())
def test_biases_in_any_form_are_one(biases: dict[int, float], random: Any) -> None:
    pairs = list(biases.items())
    random.shuffle(pairs)
    forms: list[Any] = [dict(pairs), {str(t): b for t, b in pairs}, pairs, [[str(t), b] for t, b in pairs]]
    made = [SamplingParams().override({"logit_bias": form}) for form in forms]
    made += [SamplingParams(logit_bias=form) for form in forms[:2]]
    made += [SamplingParams().override(json.loads(json.dumps({"logit_bias": forms[0]})))]
    for one in made:
        assert one.logit_bias == tuple(sorted(biases.items()))
        assert digest(dataclasses.asdict(one)) == digest(dataclasses.asdict(made[0]))


@pytest.mark.parametrize("pairs", [[(5, 1.0), (5, 1.0)], [(5, 1.0), ("5", 2.0)]])
def test_a_token_that_is_given_twice_is_refused(pairs: Any) -> None:
    with pytest.raises(ValueError, match=r"logit_bias=.*once a token"):
        SamplingParams().override({"logit_bias": pairs})


def test_fields_of_a_struct_that_a_row_has_not_are_no_biases() -> None:
    assert SamplingParams().override({"logit_bias": {"5": 1.0, "6": None}}).logit_bias == ((5, 1.0),)


@pytest.mark.parametrize("value", [3, "a", [3], [(1, 2, 3)], True])
def test_what_is_no_mapping_is_no_bias(value: Any) -> None:
    with pytest.raises(ValueError, match=r"logit_bias=.*: must be a mapping, or a list of pairs"):
        SamplingParams().override({"logit_bias": value})


def test_a_schema_is_the_same_as_a_mapping_and_as_text_and_keeps_its_order() -> None:
    forms: list[Any] = [SCHEMA, json.dumps(SCHEMA), json.dumps(SCHEMA, indent=3, ensure_ascii=False)]
    made = [SamplingParams(json_schema=form) for form in forms]
    assert made[0] == made[1] == made[2]
    assert json.loads(made[0].json_schema or "") == SCHEMA
    assert dataclasses.replace(made[0]) == made[0]
    properties: Any = SCHEMA["properties"]
    turned = SamplingParams(json_schema=json.dumps({**SCHEMA, "properties": dict(reversed(properties.items()))}))
    assert (
        json.loads(turned.json_schema or "") == SCHEMA
    )  # and yet another plan: the properties come in the order they have
    assert digest(dataclasses.asdict(turned)) != digest(dataclasses.asdict(made[0]))


@pytest.mark.parametrize(
    "changes", [{"logit_bias": {1: 1}}, {"bad_words": ["a"]}, {"regex": "a"}, {"choice": ["a"]}, {"json_schema": {}}]
)
def test_every_rule_is_part_of_a_plan(changes: dict[str, Any]) -> None:
    plain, other = SamplingParams(), SamplingParams(**changes)
    assert digest(dataclasses.asdict(plain)) == digest(dataclasses.asdict(SamplingParams()))
    assert digest(dataclasses.asdict(other)) == digest(dataclasses.asdict(SamplingParams(**changes)))
    assert digest(dataclasses.asdict(plain)) != digest(dataclasses.asdict(other))


@pytest.mark.parametrize("job", [{}, {"regex": "a"}, {"choice": ["a"]}, {"json_schema": {}}])
@pytest.mark.parametrize("row", [{"regex": "b"}, {"choice": ["b"]}, {"json_schema": {"type": "null"}}])
def test_a_rows_structure_replaces_the_jobs(job: dict[str, Any], row: dict[str, Any]) -> None:
    made = SamplingParams(temperature=0.5, **job).override(row)
    assert made == SamplingParams(temperature=0.5, **row)
    assert made.structured == next(iter(row))
    assert made.override({"temperature": 1}).structured == made.structured
    assert made.override({"choice": []}) == SamplingParams(temperature=0.5)


def test_a_row_that_gives_two_structures_is_refused() -> None:
    with pytest.raises(ValueError, match="regex and choice: exclude each other"):
        SamplingParams(json_schema="{}").override({"regex": "a", "choice": ["b"]})


def test_the_types_that_a_row_may_use() -> None:
    assert SamplingParams().override({"bad_words": "a"}).bad_words == ("a",)
    for name, wrong in (("choice", "a"), ("regex", 3), ("regex", ["a"]), ("bad_words", 3), ("choice", {"a": 1})):
        with pytest.raises(ValueError, match=rf"{name}=.*: must be a"):
            SamplingParams().override({name: wrong})
    assert set(STRUCTURED) < {f.name for f in dataclasses.fields(SamplingParams)}


TOKENS = st.lists(st.integers(0, 60), max_size=3)


@given(vocab=st.integers(1, 50), tokens=TOKENS, stops=TOKENS)
def test_tokens_beyond_the_vocabulary_are_found(vocab: int, tokens: list[int], stops: list[int]) -> None:
    beyond = SamplingParams(
        logit_bias=tuple((t, 1.0) for t in dict.fromkeys(tokens)), stop_token_ids=tuple(stops)
    ).beyond(vocab)
    assert (beyond is None) == (max([*tokens, *stops], default=0) < vocab)
    if beyond is not None:
        name, token = beyond
        assert token >= vocab and token in (stops if name == "stop_token_ids" else tokens)


def test_parameters_are_a_value() -> None:
    """Equal ones are one key, whatever form their fields came in, and the plain form makes the same again."""
    one = SamplingParams(stop=["a"], logit_bias={"5": 1, 3: 2}, choice=["x"], seed=4)  # type: ignore[arg-type]
    other = SamplingParams(stop=("a",), logit_bias=((3, 2.0), (5, 1.0)), choice=("x",), seed=4)
    assert {one: 1}[other] == 1
    assert SamplingParams(**json.loads(json.dumps(one.plain()))) == one
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.seed = 5  # type: ignore[misc]


def test_the_options_are_those_of_the_value() -> None:
    assert SamplingConfig().params() == SamplingParams()
    own = {f.name for f in dataclasses.fields(SamplingConfig)} - {f.name for f in dataclasses.fields(SamplingParams)}
    assert own == {"json_schema_file"}
    with pytest.raises(ValueError, match="stop='ab': must be a list"):
        SamplingConfig(stop="ab")  # type: ignore[arg-type]
