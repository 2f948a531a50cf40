from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from pipeline.errors import ConfigurationError, InputRefused
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.listing import Source, open_source
from pipeline.prompts.files.locate import filesystem_for
from pipeline.prompts.files.reader import RowReader
from pipeline.types import Segment

Write = Callable[..., Path]


def opened(path: object, **options: object) -> Source:
    return open_source(SourceConfig(path=str(path), **options))  # type: ignore[arg-type]


def test_files_rows_and_schema_agree_with_pyarrow_dataset(write: Write, tmp_path: Path) -> None:
    for part in ("lang=de/b", "lang=fr/a"):
        write(f"{part}.parquet", {"prompt": ["x"] * 3, "n": [1, 2, 3]})
    source = opened(tmp_path)
    oracle = ds.dataset(tmp_path, partitioning=ds.partitioning(pa.schema([("lang", pa.string())]), flavor="hive"))
    assert source.schema.equals(oracle.schema)
    assert [f.path for f in source.files] == sorted(oracle.files)
    assert sum(f.rows for f in source.files) == oracle.count_rows()
    assert [f.size for f in source.files] == [Path(p).stat().st_size for p in sorted(oracle.files)]


def test_hive_rows_agree_with_duckdb(write: Write, tmp_path: Path) -> None:
    write("lang=de/day=1%2F2/a.parquet", {"prompt": ["x", "y"]})
    write("lang=__HIVE_DEFAULT_PARTITION__/day=2/a.parquet", {"prompt": ["z"]})
    source = opened(tmp_path, keep_columns=["lang", "day"])
    reader = RowReader(source.filesystem, source.files, ["prompt", "lang", "day"], source.schema)
    table = reader.read([Segment(i, 0, f.rows) for i, f in enumerate(source.files)])
    files = f"'{tmp_path}/**/*.parquet', hive_partitioning=true, hive_types_autocast=false"
    query = f"select prompt, lang, day::varchar as d from read_parquet({files})"
    oracle = duckdb.execute(query).fetchall()
    assert sorted(map(tuple, map(dict.values, table.to_pylist())), key=str) == sorted(oracle, key=str)


def test_a_partition_that_is_null_everywhere_is_still_a_column(write: Write, tmp_path: Path) -> None:
    write("lang=__HIVE_DEFAULT_PARTITION__/a.parquet")
    source = opened(tmp_path, keep_columns=["lang"])
    table = RowReader(source.filesystem, source.files, ["lang"], source.schema).read([Segment(0, 0, 2)])
    assert table.to_pydict() == {"lang": [None, None]}


def test_the_files_open_again_elsewhere_from_the_path(write: Write) -> None:
    path = write("a.parquet")
    uri = f"file://{path}"
    filesystem, _ = filesystem_for(uri)
    assert filesystem.get_file_info(opened(uri).files[0].path).size == path.stat().st_size


def test_files_may_differ_in_columns_that_are_not_used(write: Write, tmp_path: Path) -> None:
    write("a.parquet", {"prompt": ["x"], "other": [1]})
    write("b.parquet", {"other": ["text"], "prompt": ["y"], "more": [1.5]})
    assert opened(tmp_path).schema.names == ["prompt", "other", "more"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (
            {"prompt": ["x"], "k": [1.0]},
            "b.parquet: column 'k' is double, but int64 in a.parquet; write both with one type",
        ),
        ({"prompt": ["x"]}, "b.parquet: no column 'k', unlike other files of the source"),
    ],
)
def test_files_that_differ_in_a_used_column_are_refused(
    write: Write, tmp_path: Path, second: dict[str, list[object]], message: str
) -> None:
    write("a.parquet", {"prompt": ["x"], "k": [1]})
    write("b.parquet", second)
    with pytest.raises(InputRefused) as refused:
        opened(tmp_path, keep_columns=["k"])
    assert str(refused.value) == message


def test_fault_14_empty_files_and_no_rows_at_all_are_fine(write: Write, tmp_path: Path) -> None:
    write("a.parquet", pa.table({"prompt": pa.array([], pa.string())}))
    assert [f.rows for f in opened(tmp_path).files] == [0]
    write("b.parquet")
    assert [f.rows for f in opened(tmp_path).files] == [0, 2]


def test_fault_11_the_corrupt_one_among_many_is_named(write: Write, tmp_path: Path) -> None:
    for i in range(30):
        write(f"{i:02}.parquet")
    (tmp_path / "17.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(InputRefused, match=r"^17\.parquet: the Parquet footer is corrupt"):
        opened(tmp_path)


def test_fault_2_a_missing_prompt_column_is_refused(write: Write) -> None:
    with pytest.raises(InputRefused, match=r"did you mean 'text'\? there are: text \(string\)"):
        opened(write("a.parquet", {"text": ["x"]}), prompt_column="txt")


def test_a_bad_template_is_told_before_anything_is_listed() -> None:
    with pytest.raises(ConfigurationError):
        opened("/nowhere", template="{{ x")


@pytest.mark.parametrize("stored", [True, False])
def test_json_and_uuid_are_what_the_file_says(write: Write, stored: bool) -> None:
    keys = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(range(16))], pa.binary(16)))
    table = pa.table({"prompt": ["a"], "j": pa.array(['{"seed": 1}'], pa.json_()), "u": keys})
    path = write("a.parquet", table, store_schema=stored)
    source = opened(path, sampling_column="j", id_column="u")
    assert (source.schema.field("j").type, source.schema.field("u").type) == (pa.json_(), pa.uuid())


def test_an_encrypted_file_is_refused(write: Write) -> None:
    path = write("a.parquet")
    path.write_bytes(path.read_bytes()[:-4] + b"PARE")
    with pytest.raises(InputRefused, match="encrypted"):
        opened(path)
