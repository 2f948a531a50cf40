"""An input file is known by what is in it: a corrected row may leave its size and its footer as they were."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputRefused
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files import listing
from pipeline.prompts.files.listing import Source, open_source
from pipeline.prompts.files.reader import RowReader
from pipeline.types import Segment
from tests.example_counts import examples

Write = Callable[..., Path]
PLAIN: dict[str, Any] = {"use_dictionary": False, "compression": "none", "write_statistics": False}


def opened(path: object, **options: Any) -> Source:
    return open_source(SourceConfig(path=str(path), **options))


def identities(source: Source) -> list[Any]:
    return [file.identity() for file in source.files]


def reader_of(source: Source, *columns: str) -> RowReader:
    return RowReader(source.filesystem, source.files, columns, source.schema, verify=True)


def test_a_corrected_row_of_the_same_length_is_another_input(write: Write) -> None:
    path = write("a.parquet", {"prompt": ["in France", "zebra"]}, **PLAIN)
    before, footer = identities(opened(path)), path.read_bytes()[-200:]
    write("a.parquet", {"prompt": ["in Poland", "zebra"]}, **PLAIN)
    after = identities(opened(path))
    assert path.read_bytes()[-200:] == footer and before[0]["footer"] == after[0]["footer"]
    assert before[0]["content"] != after[0]["content"]


def test_a_column_that_is_not_used_is_none_of_it(write: Write) -> None:
    path = write("a.parquet", {"prompt": ["x"], "note": ["old"]}, **PLAIN)
    one, both = opened(path), opened(path, keep_columns=["note"])
    write("a.parquet", {"prompt": ["x"], "note": ["new"]}, **PLAIN)
    assert identities(opened(path)) == identities(one)
    assert identities(opened(path, keep_columns=["note"])) != identities(both)


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_every_byte_of_a_used_page_counts(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("in") / "a.parquet"
    rows = data.draw(st.integers(1, 300))
    table = pa.table(
        {"a": [f"number {i % 9}" for i in range(rows)], "prompt": [[f"t{i}"] * (i % 3) for i in range(rows)]}
    )
    pq.write_table(table, path, row_group_size=data.draw(st.integers(1, 300)), data_page_size=64)
    options: dict[str, Any] = {"template": "{{ prompt }}"}
    before = identities(opened(path, **options))
    metadata: Any = pq.read_metadata(path)
    chunk = metadata.row_group(data.draw(st.integers(0, metadata.num_row_groups - 1))).column(1)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    place = start + data.draw(st.integers(0, chunk.total_compressed_size - 1))
    content = bytearray(path.read_bytes())
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        assert identities(opened(path, **options)) != before
    except InputRefused as refused:  # a page header that now says what cannot be
        assert "a.parquet" in str(refused)


def test_rows_of_another_text_than_the_plan_s_are_refused(write: Write) -> None:
    path = write("a.parquet", {"prompt": ["a", "b", "c", "d"]}, row_group_size=2, **PLAIN)
    source = opened(path)
    write("a.parquet", {"prompt": ["a", "b", "c", "D"]}, row_group_size=2, **PLAIN)
    reader = reader_of(source, "prompt")
    assert reader.read([Segment(0, 0, 2)]).column("prompt").to_pylist() == ["a", "b"]
    with pytest.raises(InputRefused, match=r"a\.parquet: changed since the plan was made: other values in row group 1"):
        reader.read([Segment(0, 2, 4)])


def test_a_file_that_is_written_to_while_it_is_read_is_refused(write: Write) -> None:
    path = write("a.parquet", {"prompt": [f"row {i}" for i in range(30_000)]}, **PLAIN)
    source = opened(path)
    reader = reader_of(source, "prompt")
    reader.read([Segment(0, 0, 10)])  # the row group's pages were compared
    path.write_bytes(path.read_bytes().replace(b"row 29999", b"row 39999"))
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputRefused, match=r"a\.parquet: changed since the plan was made"):
        reader.read([Segment(0, 29_000, 30_000)])


@pytest.fixture
def remote(write: Write) -> Iterator[Callable[..., str]]:
    """Put a table where only fsspec finds it; return its URI."""
    memory = fsspec.filesystem("memory")

    def put(columns: dict[str, Any]) -> str:
        memory.pipe("/inputs/a.parquet", write("local.parquet", columns, **PLAIN).read_bytes())
        return "fsspec+memory://inputs/a.parquet"

    yield put
    memory.rm("/inputs", recursive=True)


def test_a_small_remote_input_is_known_by_its_content(remote: Callable[..., str]) -> None:
    first = identities(opened(remote({"prompt": ["in France"]})))
    assert identities(opened(remote({"prompt": ["in Poland"]}))) != first
    assert identities(opened(remote({"prompt": ["in France"]}))) == first


def test_a_large_remote_input_is_known_by_its_stamp_and_hashed_as_it_is_read(
    remote: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MOST_REMOTE_BYTES", 0)
    source = opened(remote({"prompt": ["in France"]}))
    assert source.files[0].stamp and not source.files[0].groups
    reader = reader_of(source, "prompt")
    assert reader.read([Segment(0, 0, 1)]).column("prompt").to_pylist() == ["in France"]
    (digest,) = reader.digests().values()
    assert reader.digests() == {}
    remote({"prompt": ["in Poland"]})
    with pytest.raises(InputRefused, match="changed since the plan was made"):
        reader.read([Segment(0, 0, 1)])
    again = reader_of(opened("fsspec+memory://inputs/a.parquet"), "prompt")
    again.read([Segment(0, 0, 1)])
    assert list(again.digests().values()) != [digest]
