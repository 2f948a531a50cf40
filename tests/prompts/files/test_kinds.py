"""What a column holds is told by the file, not by the memory of whoever wrote it. DuckDB, Polars and pandas are the oracles."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from pipeline.errors import InputRefused
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.kinds import Mismatch, brought_to, common, readable
from pipeline.prompts.files.listing import Source, open_source
from pipeline.prompts.files.reader import RowReader
from pipeline.types import Segment

Write = Callable[..., Path]


def opened(path: Path, **options: Any) -> Source:
    return open_source(SourceConfig(path=str(path), **options))


def values(source: Source, column: str) -> list[Any]:
    reader = RowReader(source.filesystem, source.files, [column], source.schema)
    whole = [Segment(number, 0, file.rows) for number, file in enumerate(source.files)]
    read: list[Any] = reader.read(whole).column(column).to_pylist()
    return read


WAYS: dict[str, Callable[[list[str]], pa.Array[Any]]] = {
    "string": lambda v: pa.array(v, pa.string()),
    "large": lambda v: pa.array(v, pa.large_string()),
    "view": lambda v: pa.array(v, pa.string_view()),
    "categories": lambda v: pa.array(v, pa.string()).dictionary_encode(),
    "small categories": lambda v: pa.DictionaryArray.from_arrays(pa.array(range(len(v)), pa.int8()), pa.array(v)),
}


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("first", WAYS)
@pytest.mark.parametrize("second", WAYS)
def test_text_is_text_however_its_writer_held_it(
    write: Write, tmp_path: Path, first: str, second: str, kept: bool
) -> None:
    one, two = [f"a{i}" for i in range(100)], [f"b{i}" for i in range(100)]
    write("a.parquet", pa.table({"prompt": WAYS[first](one)}))
    write("b.parquet", pa.table({"prompt": WAYS[second](two)}))
    source = opened(tmp_path, keep_columns=["prompt"] if kept else [])
    assert values(source, "prompt") == one + two  # 200 categories are more than 8 bits count


def test_files_of_pandas_polars_duckdb_and_pyarrow_are_one_folder(write: Write, tmp_path: Path) -> None:
    write("a.parquet", pa.table({"prompt": ["a"], "k": pa.array([1], pa.int16())}))
    pandas.DataFrame({"prompt": ["b"], "k": [2]}).to_parquet(tmp_path / "b.parquet")
    polars.DataFrame({"prompt": ["c"], "k": polars.Series([3], dtype=polars.UInt32)}).write_parquet(
        tmp_path / "c.parquet"
    )
    duckdb.sql(f"COPY (SELECT 'd' prompt, 4::INTEGER k) TO '{tmp_path}/d.parquet'")
    pandas.DataFrame({"prompt": [], "k": []}, dtype=object).to_parquet(tmp_path / "e.parquet")
    write("f.parquet", pa.table({"prompt": pa.nulls(1), "k": pa.nulls(1)}))
    source = opened(tmp_path, keep_columns=["k"])
    assert values(source, "prompt") == ["a", "b", "c", "d", None]
    assert values(source, "k") == [1, 2, 3, 4, None]
    assert source.schema.field("k").type == pa.int64()


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (pa.int8(), pa.uint8(), pa.int16()),
        (pa.int64(), pa.uint32(), pa.int64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("ms", "Europe/Berlin"), pa.timestamp("ms", "UTC"), pa.timestamp("ms", "UTC")),
        (pa.time32("s"), pa.time64("us"), pa.time64("us")),
        (pa.date32(), pa.date64(), pa.date32()),
        (pa.decimal128(5, 2), pa.decimal128(6, 1), pa.decimal128(7, 2)),
        (pa.binary(4), pa.binary(), pa.binary()),
        (pa.null(), pa.list_(pa.int8()), pa.list_(pa.int8())),
        (pa.list_(pa.int8()), pa.large_list(pa.int16()), pa.large_list(pa.int16())),
        (pa.struct([("a", pa.int8()), ("b", pa.string())]), pa.struct([("b", pa.large_string()), ("a", pa.int8())]),
         pa.struct([("a", pa.int8()), ("b", pa.large_string())])),
        (pa.map_(pa.string(), pa.int8()), pa.map_(pa.string(), pa.int16()), pa.map_(pa.string(), pa.int16())),
        (pa.json_(pa.string()), pa.string(), pa.string()),
    ],
)  # fmt: skip
def test_common_types(one: pa.DataType, other: pa.DataType, both: pa.DataType) -> None:
    assert common(one, other) == both
    again = common(other, one)
    assert common(both, again) == both and common(again, both) == again  # which field of a struct is first may differ


@pytest.mark.parametrize(
    ("one", "other", "path"),
    [
        (pa.string(), pa.int64(), ""),
        (pa.string(), pa.binary(), ""),
        (pa.int64(), pa.uint64(), ""),
        (pa.int64(), pa.float64(), ""),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), ""),
        (pa.struct([("a", pa.int8())]), pa.struct([("a", pa.int8()), ("b", pa.int8())]), ""),
        (pa.list_(pa.struct([("a", pa.int8())])), pa.list_(pa.struct([("a", pa.string())])), "[].a"),
    ],
)
def test_types_without_a_common_one_are_told_apart(one: pa.DataType, other: pa.DataType, path: str) -> None:
    with pytest.raises(Mismatch) as mismatch:
        common(one, other)
    assert mismatch.value.path == path and mismatch.value.one != mismatch.value.other


SIMPLE: st.SearchStrategy[Any] = st.sampled_from(
    [pa.string(), pa.string_view(), pa.int8(), pa.binary_view(), pa.large_string()]
)
KINDS = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        inner.map(pa.list_),
        inner.map(pa.list_view),
        inner.map(pa.large_list_view),
        inner.map(lambda kind: pa.struct([("a", kind), ("b", pa.int8())])),
    ),
    max_leaves=4,
)


def some(kind: Any) -> st.SearchStrategy[Any]:
    """Python values of a type."""
    if pa.types.is_struct(kind):
        return st.none() | st.fixed_dictionaries({f.name: some(f.type) for f in kind})
    if pa.types.is_integer(kind):
        return st.none() | st.integers(-100, 100)
    if pa.types.is_binary_view(kind):
        return st.none() | st.binary(max_size=20)
    if kind in (pa.string(), pa.string_view(), pa.large_string()):
        return st.none() | st.text(max_size=20)
    return st.none() | st.lists(some(kind.value_type), max_size=3)


@given(data=st.data())
def test_views_however_deep_are_read_as_what_they_hold(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kind: Any = data.draw(KINDS)
    rows = data.draw(st.lists(some(kind), min_size=1, max_size=5))
    path = tmp_path_factory.mktemp("in") / "a.parquet"
    try:
        pq.write_table(pa.table({"prompt": ["x"] * len(rows), "k": pa.array(rows, kind)}), path)
    except pa.ArrowNotImplementedError:
        reject()  # Arrow writes some views inside views as soon as there is a null above them, and others not yet.
    source = opened(path, keep_columns=["k"])
    assert "view" not in str(source.schema.field("k").type)
    assert values(source, "k") == rows


def test_moments_of_96_bits_are_right_in_every_year(write: Write) -> None:
    moments = [datetime.datetime(year, 3, 4, 5, 6, 7, 890000) for year in (1, 1600, 1969, 2024, 2300, 9999)]
    table = pa.table({"prompt": ["x"] * 6, "t": pa.array(moments, pa.timestamp("us"))})
    path = write("a.parquet", table, use_deprecated_int96_timestamps=True, store_schema=False)
    assert pq.read_metadata(path).schema.column(1).physical_type == "INT96"
    oracle = [row[0] for row in duckdb.execute(f"SELECT t FROM '{path}'").fetchall()]
    assert values(opened(path, keep_columns=["t"]), "t")[1:] == oracle[1:] == moments[1:]


def test_an_order_of_categories_stays(write: Write) -> None:
    sizes = pa.DictionaryArray.from_arrays(pa.array([2, 0], pa.int8()), pa.array(["s", "m", "l"]), ordered=True)
    source = opened(write("a.parquet", pa.table({"prompt": ["x", "y"], "k": sizes})), keep_columns=["k"])
    assert source.schema.field("k").type == pa.dictionary(pa.int32(), pa.string(), ordered=True)
    assert values(source, "k") == ["l", "s"]


def test_what_no_kernel_can_do_is_read_as_its_like() -> None:
    assert readable(pa.decimal32(5, 2)) == pa.decimal128(5, 2)
    assert readable(pa.struct([("a", pa.dictionary(pa.int8(), pa.string_view()))])) == pa.struct([("a", pa.string())])
    assert brought_to(pa.array([Decimal("1.5")], pa.decimal32(5, 2)), pa.decimal128(5, 2)).to_pylist() == [
        Decimal("1.50")
    ]


def test_a_value_beyond_the_common_type_is_told_with_file_and_column(write: Write, tmp_path: Path) -> None:
    write("a.parquet", pa.table({"prompt": ["x"], "t": pa.array([1], pa.timestamp("ns"))}))
    write("b.parquet", pa.table({"prompt": ["x"], "t": pa.array([datetime.datetime(2500, 1, 1)], pa.timestamp("us"))}))
    source = opened(tmp_path, keep_columns=["t"])
    with pytest.raises(InputRefused, match=r"b\.parquet: column 't' does not fit"):
        values(source, "t")


@pytest.mark.parametrize("fixed", [True, False])
def test_lists_of_uuids_of_two_kinds_are_one(write: Write, tmp_path: Path, fixed: bool) -> None:
    keys: Any = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes([i]) * 16 for i in range(4)], pa.binary(16)))
    offsets: Any = pa.array(range(5), pa.int64())
    one: Any = pa.FixedSizeListArray.from_arrays(keys, 1) if fixed else pa.LargeListArray.from_arrays(offsets, keys)
    other: Any = pa.ListArray.from_arrays(offsets.cast(pa.int32()), keys)
    for name, made in (("a.parquet", one), ("b.parquet", other)):
        write(name, pa.table({"prompt": ["x"] * 4, "k": made}))
    assert values(opened(tmp_path, keep_columns=["k"]), "k") == one.to_pylist() + other.to_pylist()
