from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning.fingerprint import differences, digest, flatten

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_the_order_of_keys_does_not_matter() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})


def test_is_the_same_in_every_process_and_version() -> None:
    """The id of outputs that exist: a change here makes them strangers."""
    assert (
        digest({"a": [1, 2.5, None, True, "ü"]}) == "e77136568bc8f48068190154580943f5e0acb2f72cde3535964507d181196f5a"
    )


@pytest.mark.parametrize(
    "other", [{"a": 2}, {"a": "1"}, {"a": None}, {"a": True}, {"b": 1}, {}, {"a": [1]}, {"a": {"": 1}}]
)
def test_any_difference_changes_it(other: dict[str, Any]) -> None:
    assert digest({"a": 1}) != digest(other)


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError):
        digest({"a": float("nan")})
    with pytest.raises(TypeError):
        digest({"a": object()})


def test_flatten() -> None:
    assert list(flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": {}})) == [("a.b", 1), ("a.c.d", [2]), ("e", {})]


def test_differences_name_every_key() -> None:
    before = {"sampling": {"seed": 0, "n": 1, "stop": []}, "gone": 1, "same": 1}
    after = {"sampling": {"seed": 7, "n": 1, "stop": ["x"]}, "new": {"a": None}, "same": 1}
    assert differences(before, after) == [
        "sampling.seed: 0 → 7",
        'sampling.stop: [] → ["x"]',
        "gone: 1 → absent",
        "new.a: absent → null",
    ]


def test_long_values_are_shortened() -> None:
    (line,) = differences({"template": "a" * 500}, {"template": "b" * 500})
    assert len(line) < 150 and line.count("…") == 2


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4))
def test_nothing_differs_from_itself(value: dict[str, Any]) -> None:
    assert differences(value, dict(reversed(value.items()))) == []
    assert digest(value) == digest(dict(reversed(value.items())))


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), st.integers())
def test_a_changed_value_is_named(value: dict[str, Any], number: int) -> None:
    assert differences({**value, "the key": number}, {**value, "the key": number + 1}) == [
        f"the key: {number} → {number + 1}"
    ]
