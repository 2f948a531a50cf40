"""Which environments promise the same bits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inspect.identity import differences, mixtures

HERE: dict[str, Any] = {
    "promptmill": "0.1.0", "torch": "2.13", "python": "3.11", "processor": "Some CPU @ 2.60GHz",
    "processor_class": "Some/6/85", "instruction_sets": "avx avx2", "dtype": "float32", "linear_kernels": {"packed": 3},
    "batch_invariant": True, "threads": 2, "max_num_seqs": 64, "engine": "continuous",
}  # fmt: skip


def changed(**facts: Any) -> dict[str, Any]:
    return {**HERE, **facts}


@pytest.mark.parametrize(
    "other",
    [
        HERE, changed(threads=8), changed(max_num_seqs=3), changed(python="3.13"), changed(pid=3, node="n"),
        changed(processor="Some CPU @ 3.00GHz"),
    ],
)  # fmt: skip
def test_what_changes_only_the_speed(other: dict[str, Any]) -> None:
    assert differences(HERE, other) == []


@pytest.mark.parametrize(
    ("other", "lines"),
    [
        (changed(torch="2.12"), ["torch: 2.13 → 2.12"]),
        (changed(instruction_sets="avx2 avx512f"), ["instruction_sets: avx → avx512f"]),
        (changed(instruction_sets="avx avx2 avx512f"), ["instruction_sets: no more → avx512f"]),
        (changed(linear_kernels={"packed": 2}), ["linear_kernels.packed: 3 → 2"]),
        (changed(linear_kernels={"fixed-rows": 3}), [
            "linear_kernels.packed: 3 → not recorded", "linear_kernels.fixed-rows: not recorded → 3",
            "threads: not recorded → 2",
        ]),
        (changed(batch_invariant=False), ["batch_invariant: true → false"]),
        (changed(new="fact"), ["new: not recorded → fact"]),
        ({}, ["environment: not recorded"]),
    ],
)  # fmt: skip
def test_what_bits_rest_on(other: dict[str, Any], lines: list[str]) -> None:
    found = differences(HERE, other)
    assert sorted(found) == sorted(lines)


def test_the_processors_name_counts_where_its_class_is_not_known() -> None:
    old = {name: value for name, value in HERE.items() if name not in ("processor_class", "instruction_sets")}
    assert differences(old, old) == []
    assert differences(old, {**old, "processor": "Another"}) == ["processor: Some CPU @ 2.60GHz → Another"]


def test_threads_count_with_the_kernel_that_needs_them() -> None:
    fixed = changed(linear_kernels={"fixed-rows": 3})
    assert differences(fixed, {**fixed, "threads": 8}) == ["threads: 2 → 8"]


def test_an_environment_that_promises_nothing_does_not_promise_it_to_itself() -> None:
    alone = changed(batch_invariant=False)
    assert differences(alone, alone) == ["batch_invariant: promised neither there nor here"]


VALUES = st.text(max_size=3) | st.integers() | st.booleans()
FACTS = st.dictionaries(st.sampled_from([*HERE, "a", "b"]), VALUES | st.dictionaries(st.text(max_size=3), VALUES))


@given(there=FACTS, here=FACTS)
def test_both_ways_are_alike(there: dict[str, Any], here: dict[str, Any]) -> None:
    assert len(differences(there, here)) == len(differences(here, there))
    if there.get("batch_invariant") is True:
        assert differences(there, there) == []


def test_mixtures() -> None:
    assert mixtures({}) == mixtures({"a": HERE}) == mixtures({"a": HERE, "b": changed(threads=5)}) == []
    assert mixtures(
        {"a": HERE, "b": changed(torch="1"), "c": HERE, "d": changed(torch="1"), "e": changed(dtype="int8")}
    ) == [
        "2 parts, the first of them b, were not made where a was: torch: 2.13 → 1",
        "e was not made where a was: dtype: float32 → int8",
    ]
