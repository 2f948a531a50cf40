"""The door to an output: what is there, in the order of its rows, in batches; pyarrow's dataset is the oracle."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import PlanRefused
from pipeline.inspect.output import ROWS_AT_ONCE, open_output
from pipeline.store.base import open_store


def put(folder: Path, index: int, count: int, values: list[int]) -> None:
    (folder / "data").mkdir(exist_ok=True)
    table = pa.table({"row_id": [str(v) for v in values], "n": values})
    pq.write_table(table, folder / "data" / f"0123abcd-{index:05d}-of-{count:05d}.parquet")


def test_rows_come_in_the_order_of_the_parts_and_in_batches(tmp_path: Path) -> None:
    count = 100_001  # names of five and of six digits, which do not sort as texts do
    put(tmp_path, 100_000, count, [7])
    put(tmp_path, 99_999, count, list(range(ROWS_AT_ONCE + 1)))
    (tmp_path / "data" / "other.txt").write_text("not a part")
    output = open_output(str(tmp_path))
    batches = list(output.rows(["n", "not there"]))
    assert [batch.num_rows for batch in batches] == [ROWS_AT_ONCE, 1, 1]
    assert pa.Table.from_batches(batches).to_pydict() == {"n": [*range(ROWS_AT_ONCE + 1), 7]}
    assert (output.planned, output.finished, len(output.files)) == (False, False, 3)


def test_all_columns_unless_some_are_named(tmp_path: Path) -> None:
    put(tmp_path, 0, 1, [1, 2])
    output = open_output(str(tmp_path))
    assert pa.Table.from_batches(output.rows()) == pq.read_table(tmp_path / "data")


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanRefused, match="holds no output"):
        open_output(str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "prices.csv").touch()
    with pytest.raises(PlanRefused, match="holds no output"):
        open_output(str(tmp_path))  # a folder of somebody else, which has one called data
    open_store(str(tmp_path)).put("_job/plan.json", b"{}")
    output = open_output(str(tmp_path))
    assert output.planned and output.parts() == []
    with pytest.raises(ValueError, match="plan format"):
        output.plan()
