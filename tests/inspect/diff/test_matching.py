"""Rows are matched in whatever order and layout they are; DuckDB's outer join is the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PlanRefused
from pipeline.inspect.diff import buckets
from pipeline.inspect.diff.matching import Matched, match
from tests.example_counts import examples

SCHEMA = pa.table({"row_id": ["a"], "sample_index": pa.array([0], pa.int32()), "value": [0]}).schema
Row = tuple[str, int, int]
ROWS = st.lists(
    st.tuples(st.sampled_from("abcdefghij"), st.integers(0, 1), st.integers(0, 1)),
    max_size=14,
    unique_by=lambda row: row[:2],
)


@dataclass
class Given:
    """A side whose rows are given, in batches of some sizes."""

    rows_: list[Row]
    sizes: list[int]

    @property
    def rows(self) -> int:
        return len(self.rows_)

    size = 1000

    def read(self, columns: Any, schema: Any) -> Iterator[pa.RecordBatch]:
        at = 0
        for size in [*self.sizes, len(self.rows_)]:
            some = self.rows_[at : at + size]
            at += size
            values = [[row[i] for row in some] for i in range(3)]
            yield pa.RecordBatch.from_arrays(
                [pa.array(v, f.type) for v, f in zip(values, SCHEMA, strict=True)], schema=SCHEMA
            )


def matched(a: list[Row], b: list[Row], sizes: list[int]) -> tuple[Matched, list[tuple[Row, Row]]]:
    found: list[tuple[Row, Row]] = []

    def on_pairs(one: pa.RecordBatch, other: pa.RecordBatch) -> None:
        rows = [[tuple(row[name] for name in SCHEMA.names) for row in side.to_pylist()] for side in (one, other)]
        found.extend(zip(*rows, strict=True))

    one: Any = Given(a, sizes)
    other: Any = Given(b, sizes[::-1])
    return match(one, other, SCHEMA, on_pairs, lambda done: None), found


@given(a=ROWS, changes=st.data(), sizes=st.lists(st.integers(0, 4), max_size=5))
@settings(deadline=None, max_examples=examples(60))
def test_as_duckdb_joins(a: list[Row], changes: st.DataObject, sizes: list[int]) -> None:
    b = changes.draw(st.permutations(a) | ROWS | st.just(a) | st.just(a[:-2]) | st.just(a[2:]))
    before, buckets.BUCKET_ROWS = buckets.BUCKET_ROWS, 3
    try:
        result, found = matched(a, b, sizes)
    finally:
        buckets.BUCKET_ROWS = before
    with duckdb.connect() as sql:
        for name, rows in (("a", a), ("b", b)):
            sql.execute(f"create table {name} (row_id varchar, sample_index int, value bigint)")
            if rows:
                sql.executemany(f"insert into {name} values (?, ?, ?)", rows)
        joined = sql.sql("select a.*, b.* from a join b using (row_id, sample_index) order by all").fetchall()
        only_a, only_b = (
            sql.sql(f"select * from {x} anti join {y} using (row_id, sample_index)").fetchall() for x, y in ("ab", "ba")
        )
        others = [
            sql.sql(
                f"select * from {x} anti join {y} using (row_id, sample_index) semi join {y} z on {x}.row_id = z.row_id"
            ).fetchall()
            for x, y in ("ab", "ba")
        ]
    assert sorted((*one, *other) for one, other in found) == joined
    assert (result.only_a.rows, result.only_b.rows) == (len(only_a), len(only_b))
    assert set(result.only_a.first) <= {row[:2] for row in only_a}
    # ids are remembered within what is matched on disk, and the last before it
    assert result.only_a.samples <= len(others[0]) and result.only_b.samples <= len(others[1])
    common = [[row[:2] for row in side if row[:2] in {r[:2] for r in other}] for side, other in ((a, b), (b, a))]
    assert result.same_order == (common[0] == common[1] if common[0] else None)


def test_a_row_that_is_there_twice_is_matched_once() -> None:
    a, b = [("a", 0, 1), ("b", 0, 1), ("b", 0, 2)], [("b", 0, 1), ("a", 0, 1)]
    result, found = matched(a, b, [])
    assert (len(found), result.only_a.rows, result.only_b.rows) == (2, 1, 0)


def test_further_samples_of_a_row_are_told() -> None:
    a = [(row, sample, 0) for row in "abc" for sample in range(3)]
    result, _ = matched(a, [row for row in a if row[1] < 2], [2])
    assert (result.only_a.rows, result.only_a.samples, result.only_b.rows) == (3, 3, 0)


def test_a_disk_without_room_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(Given, "size", 1 << 60)
    with pytest.raises(PlanRefused, match="name another folder with TMPDIR"):
        matched([("a", 0, 0), ("b", 0, 0)], [("b", 0, 0), ("a", 0, 0)], [])
    assert list(tmp_path.iterdir()) == []


def test_what_is_interrupted_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def interrupted(*_: object) -> None:
        assert list(tmp_path.iterdir())
        raise KeyboardInterrupt

    one: Any = Given([("a", 0, 0), ("b", 0, 0)], [])
    other: Any = Given([("b", 0, 0), ("a", 0, 0)], [])
    with pytest.raises(KeyboardInterrupt):
        match(one, other, SCHEMA, interrupted, lambda done: None)
    assert list(tmp_path.iterdir()) == []
