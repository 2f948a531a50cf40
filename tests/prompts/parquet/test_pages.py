"""What raw pages say is compared with what pyarrow wrote; files that lie are made of honest ones."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import fs

from pipeline.errors import CorruptInput, InputRefused
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.listing import Source, open_source
from pipeline.prompts.parquet import pages
from pipeline.prompts.parquet.footer import open_file, read_footer
from pipeline.prompts.parquet.pages import chunks, leaves, scan_group
from pipeline.prompts.parquet.thrift import Reader, write_struct
from pipeline.prompts.parquet.trial import deadly_signal
from tests.example_counts import examples

Write = Callable[..., Path]
LOCAL = fs.LocalFileSystem()


def opened(path: Path, **options: Any) -> Source:
    return open_source(SourceConfig(path=str(path), **options))


def with_footer(path: Path, change: Callable[[Any], None]) -> None:
    """Write the file's footer anew, changed."""
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer = Reader(content[-8 - length : -8]).struct()
    change(footer)
    raw = write_struct(footer)
    path.write_bytes(content[: -8 - length] + raw + len(raw).to_bytes(4, "little") + b"PAR1")


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_a_scan_reads_each_byte_once_and_believes_honest_files(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("in") / "a.parquet"
    rows = data.draw(st.integers(1, 400))
    table = pa.table(
        {
            "s": [None if i % 5 == 0 else "x" * (i % 90) for i in range(rows)],
            "l": [[f"v{i % 7}"] * (i % 4) for i in range(rows)],
            "m": [[{"role": "u", "n": i}] for i in range(rows)],
        }
    )
    pq.write_table(
        table, path, row_group_size=data.draw(st.integers(1, 400)), data_page_size=data.draw(st.sampled_from([1, 64, 4096])),
        data_page_version=data.draw(st.sampled_from(["1.0", "2.0"])), use_dictionary=data.draw(st.booleans()),
        compression=data.draw(st.sampled_from(["none", "zstd", "snappy"])), write_page_checksum=data.draw(st.booleans()),
    )  # fmt: skip
    content, metadata = path.read_bytes(), pq.read_metadata(path)
    with open_file(LOCAL, str(path), "a") as handle:
        footer = read_footer(handle, "a")
        for group in range(metadata.num_row_groups):
            found = chunks(footer.metadata, group, leaves(footer.metadata, ["s", "l", "m"]))
            scan = scan_group(handle, metadata.row_group(group).num_rows, found, "a")
            raw = b"".join(content[c.start : c.start + c.length] for c in found)
            assert scan.digest == hashlib.sha256(raw).hexdigest()[:32]
            assert scan.whole and not scan.damaged


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@settings(max_examples=examples(80), deadline=None)
@given(data=st.data())
def test_a_page_that_does_not_have_its_checksum_is_found_as_arrow_finds_it(
    version: Any, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("in") / "a.parquet"
    table = pa.table({"s": [f"{i % 13}" * (i % 40) for i in range(300)], "l": [["v"] * (i % 4) for i in range(300)]})
    pq.write_table(
        table, path, data_page_size=data.draw(st.sampled_from([64, 2000])), data_page_version=version,
        compression=data.draw(st.sampled_from(["none", "zstd"])), write_page_checksum=True,
    )  # fmt: skip
    with open_file(LOCAL, str(path), "a") as handle:
        metadata = read_footer(handle, "a").metadata
    found = chunks(metadata, 0, leaves(metadata, ["s", "l"]))
    chunk = data.draw(st.sampled_from(found))
    content = bytearray(path.read_bytes())
    content[chunk.start + data.draw(st.integers(0, chunk.length - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with open_file(LOCAL, str(path), "a") as handle:
        try:
            scan = scan_group(handle, 300, found, "a")
        except CorruptInput:
            return  # a header gives another number of rows: nothing is read
    if not scan.whole:
        return  # a header that cannot be read: what Arrow makes of it is tried in another process
    try:
        pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        assert "CRC" not in str(error) or scan.damaged == chunk.column
    else:
        assert not scan.damaged  # the changed byte is in a header, which has no checksum


@settings(max_examples=examples(60), deadline=None)
@given(rows=st.integers(0, 20), names=st.lists(st.text("abc.", min_size=1, max_size=4), min_size=1, unique=True))
def test_thrift_there_and_back(rows: int, names: list[str]) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: [1.5] * rows for name in names}), sink, row_group_size=3)
    content = sink.getvalue().to_pybytes()
    raw = content[-8 - int.from_bytes(content[-8:-4], "little") : -8]
    reader = Reader(raw)
    assert write_struct(reader.struct()) == raw and reader.position == len(raw)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_thrift_are_an_error_of_two_kinds(data: bytes) -> None:
    with contextlib.suppress(IndexError, ValueError):
        Reader(data).struct()


def test_fault_43_a_footer_with_rows_that_are_not_there(write: Write) -> None:
    def lie(footer: Any) -> None:
        footer[3] = (footer[3][0], 1 << 40)
        group = footer[4][1][1][0]
        group[3] = (group[3][0], 1 << 40)

    path = write("a.parquet", {"prompt": ["a", "b"]})
    with_footer(path, lie)
    with pytest.raises(InputRefused, match=r"^a\.parquet: row group 0.* 1099511627776 rows") as refused:
        opened(path, id_column="prompt")
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(("said", "there"), [(3, 2), (1, 2)])
def test_fault_43_more_or_fewer_rows_than_the_footer_says(write: Write, said: int, there: int) -> None:
    def lie(footer: Any) -> None:
        footer[3] = (footer[3][0], said)
        group = footer[4][1][1][0]
        group[3] = (group[3][0], said)

    path = write("a.parquet", {"prompt": ["a"] * there})
    with_footer(path, lie)
    with pytest.raises(InputRefused, match=rf"gives it {said} rows, and its pages hold {there}"):
        opened(path)


def test_fault_43_a_chunk_beyond_the_file(write: Write) -> None:
    def lie(footer: Any) -> None:
        chunk = footer[4][1][1][0][1][1][1][0]
        chunk[3][1][7] = (chunk[3][1][7][0], 1 << 50)

    path = write("a.parquet")
    with_footer(path, lie)
    with pytest.raises(InputRefused, match=r"a\.parquet: .*beyond the file"):
        opened(path)


def test_fault_43_a_page_that_unpacks_to_more_than_memory(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LARGEST_PAGE", 1 << 20)
    path = write("a.parquet", {"prompt": ["x" * (2 << 20)]}, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 10_000
    with pytest.raises(InputRefused, match=r"^a\.parquet: row group 0, column 'prompt': a page unpacks to 2,097,"):
        opened(path)


def test_a_process_that_ends_while_it_decodes_is_named_by_its_signal(write: Write) -> None:
    path = write("a.parquet")
    assert deadly_signal(LOCAL, str(path), ["prompt"]) is None
    abort = (sys.executable, "-c", "import os; os.abort()")
    assert deadly_signal(LOCAL, str(path), ["prompt"], command=abort) == "SIGABRT"


def test_a_file_whose_page_headers_are_no_headers_is_tried_elsewhere_first(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("a.parquet", {"prompt": ["a", "b"]}, use_dictionary=False, compression="none", write_statistics=False)
    content = bytearray(path.read_bytes())
    content[4:12] = b"\xff" * 8
    path.write_bytes(content)
    opened(path)  # the decoder will say what is wrong, or make errors of the rows: source.on_corrupt
    monkeypatch.setattr("pipeline.prompts.files.listing.deadly_signal", lambda *about: "SIGSEGV")
    with pytest.raises(InputRefused, match=r"^a\.parquet: is damaged: decoding it ends the process \(SIGSEGV\)"):
        opened(path)
