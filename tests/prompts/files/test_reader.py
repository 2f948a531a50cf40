from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from pipeline.errors import CorruptInput, InputRefused
from pipeline.planning.plan import InputFile
from pipeline.prompts.files.reader import RowReader
from pipeline.prompts.parquet.footer import open_file, read_footer
from pipeline.types import Segment
from tests import small_runs
from tests.example_counts import examples

Write = Callable[..., Path]
LOCAL = fs.LocalFileSystem()


def planned(path: Path, **partitions: str) -> InputFile:
    with open_file(LOCAL, str(path), path.name) as handle:
        footer = read_footer(handle, path.name)
    return InputFile(path.name, str(path), footer.size, footer.metadata.num_rows, footer.sha256, partitions)


def reader_of(*paths: Path, columns: list[str]) -> RowReader:
    return RowReader(LOCAL, [planned(p) for p in paths], columns, pq.read_schema(paths[0]))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every batch that Arrow decodes."""
    counts: list[int] = []
    original = pq.ParquetFile.iter_batches

    def counting(self: pq.ParquetFile, *args: Any, **kwargs: Any) -> Iterator[pa.RecordBatch]:
        for batch in original(self, *args, **kwargs):
            counts.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counting)
    return counts


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_any_segments_of_any_files_are_the_slices_of_the_tables(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tables, paths = [], []
        for number in range(data.draw(st.integers(1, 3))):
            rows = data.draw(st.integers(0, 60))
            table = pa.table(
                {
                    "a": pa.array(range(rows), pa.int32()),
                    "s": pa.array([None if i % 7 == 3 else f"{number}-{i}" for i in range(rows)], pa.large_string()),
                    "l": pa.array([[i] * (i % 3) for i in range(rows)], pa.list_(pa.int16())),
                    "d": pa.array([f"v{i % 4}" for i in range(rows)], pa.string()).dictionary_encode(),
                }
            )
            paths.append(Path(folder) / f"{number}.parquet")
            size = data.draw(st.integers(1, 70))
            small_runs.write(table, paths[-1], row_group_size=size, data_page_size=64, use_dictionary=["s"])
            tables.append(pq.read_table(paths[-1]))
        columns = data.draw(st.permutations(["a", "s", "l", "d"]))[: data.draw(st.integers(0, 4))]
        reader = reader_of(*paths, columns=columns)
        for _ in range(data.draw(st.integers(1, 4))):
            segments = []
            for _ in range(data.draw(st.integers(0, 4))):
                number = data.draw(st.integers(0, len(paths) - 1))
                start = data.draw(st.integers(0, tables[number].num_rows))
                segments.append(Segment(number, start, data.draw(st.integers(start, tables[number].num_rows))))
            expected = [tables[s.file].select(columns).slice(s.start, s.stop - s.start) for s in segments]
            read = reader.read(segments)
            assert read.num_rows == sum(s.stop - s.start for s in segments)
            assert read.column_names == columns
            if expected and columns:
                assert read.to_pylist() == pa.concat_tables(expected).to_pylist()
        reader.close()


def test_one_huge_row_group_in_small_shards_is_decoded_once(write: Write, decoded: list[int]) -> None:
    path = write("a.parquet", {"x": list(range(100_000))}, row_group_size=100_000)
    reader = reader_of(path, columns=["x"])
    for start in range(0, 100_000, 500):
        values = reader.read([Segment(0, start, start + 500)]).column("x")
        assert (values[0].as_py(), values[-1].as_py()) == (start, start + 499)
    assert sum(decoded) == 100_000
    assert max(decoded) <= 8192


def test_skipped_shards_are_decoded_once_within_a_row_group_and_never_beyond_it(
    write: Write, decoded: list[int]
) -> None:
    path = write("a.parquet", {"x": list(range(100_000))}, row_group_size=50_000)
    reader = reader_of(path, columns=["x"])
    for start in range(50_000, 100_000, 5000):
        assert reader.read([Segment(0, start, start + 10)]).column("x")[0].as_py() == start
    assert sum(decoded) <= 50_000


def test_going_back_starts_the_row_group_again_not_the_file(write: Write, decoded: list[int]) -> None:
    path = write("a.parquet", {"x": list(range(1000))}, row_group_size=100)
    reader = reader_of(path, columns=["x"])
    for start in (950, 940):
        assert reader.read([Segment(0, start, start + 5)]).column("x")[0].as_py() == start
    assert sum(decoded) == 200


def test_long_texts_come_in_small_batches(write: Write, decoded: list[int]) -> None:
    path = write("a.parquet", {"x": ["y" * 100_000 + str(i) for i in range(500)]}, use_dictionary=False)
    reader = reader_of(path, columns=["x"])
    assert reader.read([Segment(0, 0, 10)]).column("x")[9].as_py().endswith("y9")
    assert max(decoded) <= 100


def test_only_the_columns_asked_for_are_read_whatever_their_names(write: Write) -> None:
    path = write("a.parquet", {"a.b": [1], "a": [2], "b": [3]})
    reader = reader_of(path, columns=["b", "a"])
    table = reader.read([Segment(0, 0, 1)])
    assert table.to_pydict() == {"b": [3], "a": [2]}
    assert table.column_names == ["b", "a"]


def test_types_of_the_input_are_kept(write: Write) -> None:
    table = pa.table(
        {
            "v": pa.array(["a"], pa.string_view()),
            "d": pa.array(["a"]).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string())),
            "t": pa.array([0], pa.timestamp("ns", "Europe/Berlin")),
            "f": pa.array([[1, 2]], pa.list_(pa.int32(), 2)),
        }
    )
    read = reader_of(write("a.parquet", table), columns=table.column_names).read([Segment(0, 0, 1)])
    assert read.schema.types == table.schema.types


def test_one_file_is_open_at_most(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(f"{i}.parquet", {"x": [i]}) for i in range(3)]
    reader = reader_of(*paths, columns=["x"])
    assert reader.read([Segment(i, 0, 1) for i in (0, 1, 2, 0)]).column("x").to_pylist() == [0, 1, 2, 0]
    handle = reader._cursor._handle if reader._cursor else None
    reader.close()
    assert handle is not None
    assert handle.closed


def test_no_columns_at_all_keep_the_number_of_rows(write: Write) -> None:
    assert reader_of(write("a.parquet"), columns=[]).read([Segment(0, 0, 2)]).num_rows == 2


def damaged(write: Write, checksum: bool) -> Path:
    path = write(
        "a.parquet", {"x": [f"{i:09}" for i in range(3000)]}, row_group_size=1000, compression="zstd",
        use_dictionary=False, write_page_checksum=checksum,
    )  # fmt: skip
    chunk = pq.read_metadata(path).row_group(1).column(0)
    raw = bytearray(path.read_bytes())
    # Without a checksum, damage within the compressed data may pass unseen; in the page's header it cannot.
    start = chunk.data_page_offset + (chunk.total_compressed_size // 2 if checksum else 0)
    raw[start : start + 64] = bytes(b ^ 0x55 for b in raw[start : start + 64])
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("checksum", [False, True])
def test_fault_12_a_corrupt_page_names_file_and_row_group_and_spares_the_others(write: Write, checksum: bool) -> None:
    reader = reader_of(damaged(write, checksum), columns=["x"])
    assert reader.read([Segment(0, 0, 1000)]).num_rows == 1000
    for _ in range(2):
        with pytest.raises(CorruptInput, match=r"^a\.parquet: row group 1 cannot be decoded: ") as corrupt:
            reader.read([Segment(0, 900, 1100)])
        assert "\n" not in str(corrupt.value)
    assert reader.read([Segment(0, 2000, 3000)]).num_rows == 1000


def test_fault_12_damage_that_decodes_is_found_by_the_page_checksum(write: Write) -> None:
    path = write(
        "a.parquet", {"x": ["abcdefgh"] * 100}, compression="none", use_dictionary=False, write_page_checksum=True
    )
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"abcdefgh", b"abcdefgX", 5))
    with pytest.raises(CorruptInput, match="row group 0"):
        reader_of(path, columns=["x"]).read([Segment(0, 0, 100)])


@pytest.mark.parametrize("change", ["longer", "same size", "gone", "no Parquet"])
def test_fault_13_a_file_changed_since_the_plan_is_refused_with_its_name(write: Write, change: str) -> None:
    path = write("a.parquet", {"x": [1, 2, 3]})
    reader = reader_of(path, columns=["x"])
    if change == "longer":
        write("a.parquet", {"x": list(range(1000))})
    elif change == "same size":
        size = path.stat().st_size
        write("a.parquet", {"x": [1, 2, 4]})
        assert path.stat().st_size == size
    elif change == "gone":
        path.unlink()
    else:
        path.write_text("something else, long enough")
    with pytest.raises(InputRefused, match=r"^a\.parquet: .*changed since the plan"):
        reader.read([Segment(0, 0, 1)])


def test_rows_that_are_not_there_are_a_mistake_of_the_caller(write: Write) -> None:
    with pytest.raises(ValueError, match=r"a\.parquet: rows 1 to 9 of 2"):
        reader_of(write("a.parquet"), columns=["prompt"]).read([Segment(0, 1, 9)])
