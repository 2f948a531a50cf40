"""The order of rows, against a list of what is due."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pipeline.inspect.verify.order import RowOrder

Row = tuple[str, int]


def wrong(rows: list[Row], samples: int | None, due: list[str] | None, cuts: list[int]) -> list[str]:
    """What is said about rows that come in batches."""
    order = RowOrder(samples, iter(due) if due is not None else None)
    edges = sorted({0, *(cut % (len(rows) + 1) for cut in cuts), len(rows)})
    told = []
    for start, stop in itertools.pairwise(edges):
        ids, numbers = [row_id for row_id, _ in rows[start:stop]], [sample for _, sample in rows[start:stop]]
        told += [text for _, text in order.take(ids, numbers)]
    end = order.end()
    assert order.input_rows == sum(sample == 0 for _, sample in rows)
    assert len(order.hashes) == (order.input_rows if due is None else 0)
    return [*told, end] if end else told


IDS = st.lists(st.sampled_from("abcdefgh"), unique=True)
CUTS = st.lists(st.integers(0, 100), max_size=3)


@given(ids=IDS, samples=st.integers(1, 4), cuts=CUTS, known=st.booleans())
def test_the_planned_rows_are_right_in_any_batches(ids: list[str], samples: int, cuts: list[int], known: bool) -> None:
    rows = [(row_id, sample) for row_id in ids for sample in range(samples)]
    assert wrong(rows, samples, ids if known else None, cuts) == []


@given(ids=IDS, counts=st.lists(st.integers(1, 4), min_size=8, max_size=8), cuts=CUTS)
def test_rows_may_have_samples_of_their_own_number(ids: list[str], counts: list[int], cuts: list[int]) -> None:
    rows = [(row_id, sample) for row_id, count in zip(ids, counts, strict=False) for sample in range(count)]
    assert wrong(rows, None, ids, cuts) == []


@given(ids=IDS, samples=st.integers(1, 3), cuts=CUTS, data=st.data())
def test_no_other_rows_are(ids: list[str], samples: int, cuts: list[int], data: st.DataObject) -> None:
    due = [(row_id, sample) for row_id in ids for sample in range(samples)]
    other = st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 3))
    rows = data.draw(
        st.one_of(st.permutations(due), st.lists(other), st.lists(st.sampled_from(due)) if due else st.just([]))
    )
    assert (wrong(list(rows), samples, ids, cuts) == []) == (list(rows) == due)
