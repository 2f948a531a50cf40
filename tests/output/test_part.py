"""A part's bytes, name, commit and footer."""

from __future__ import annotations

import collections
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import __version__
from pipeline.errors import PlanRefused
from pipeline.output import part
from pipeline.output.config import COMPRESSIONS, OutputConfig
from pipeline.output.folder import OutputFolder
from pipeline.output.part import (
    PartInfo,
    PartName,
    commit_part,
    encode_part,
    parse_part_name,
    part_metadata,
    part_name,
    read_report,
    sha256_of,
)
from pipeline.output.record.counts import Counts, count_rows
from pipeline.output.schema import output_schema
from pipeline.output.table import build_table
from pipeline.store.local import LocalStore
from pipeline.types import SamplingParams
from tests.output.made_output import FULL, commit, plan, shard

CONFIG = OutputConfig(path="out")
ID, OTHER = "a" * 64, "b" * 64


def encoded(count: int = 20, config: OutputConfig = CONFIG, plan_id: str = ID, attempt: str = "1") -> bytes:
    rows, done, kept = shard(count)
    built = build_table(FULL, rows, done, kept)
    return encode_part(built, config, part_metadata(plan_id, 3, attempt, count_rows(rows, built)))


def encodings(data: bytes) -> dict[str, set[str]]:
    metadata = pq.read_metadata(pa.BufferReader(data))
    group = metadata.row_group(0)
    columns = [group.column(i) for i in range(metadata.num_columns)]
    return {c.path_in_schema: set(c.encodings) for c in columns}


@given(st.text("0123456789abcdef", min_size=8, max_size=8), st.integers(0, 10**7), st.integers(1, 10**7))
def test_part_names_can_be_read_back_and_sort_by_index(plan8: str, index: int, count: int) -> None:
    name = part_name(plan8, index, count)
    assert parse_part_name(name) == PartName(plan8, index, count)
    if index < 99_999:
        assert name < part_name(plan8, index + 1, count)


def test_a_part_s_name() -> None:
    assert part_name("0123abcd", 3, 12) == "data/0123abcd-00003-of-00012.parquet"


@pytest.mark.parametrize(
    "name",
    [
        "data/x.parquet",
        "0123abcd-00003-of-00012.parquet",
        "data/0123abcd-3-of-12.parquet",
        "data/0123ABCD-00003-of-00012.parquet",
        "data/0123abcd-000003-of-00012.parquet",
        "data/0123abcd-00003-of-00012.parquet.tmp",
        "data/0123abcd-0000٣-of-00012.parquet",
        "data/0123abcd-00003-of-00012.parquet\n",
    ],
)
def test_other_names_are_not_parts(name: str) -> None:
    assert parse_part_name(name) is None


def test_the_table_comes_back_with_its_metadata() -> None:
    rows, done, kept = shard(20)
    built = build_table(FULL, rows, done, kept)
    back = pq.read_table(pa.BufferReader(encoded()), page_checksum_verification=True)
    assert back.cast(FULL).equals(built)
    assert back.schema.field("finish_reason").type.value_type == pa.string()
    metadata = back.schema.metadata
    assert metadata[b"promptmill.plan_id"] == ID.encode()
    assert (metadata[b"promptmill.shard"], metadata[b"promptmill.attempt"]) == (b"3", b"1")


def test_float_lists_are_split_and_have_no_dictionary() -> None:
    found = encodings(encoded())
    split = {path for path, used in found.items() if "BYTE_STREAM_SPLIT" in used}
    assert split == {
        "token_logprobs.list.element",
        "token_entropies.list.element",
        "top_token_logprobs.list.element.list.element",
        "prompt_token_logprobs.list.element",
    }
    dictionary = {path for path, used in found.items() if "RLE_DICTIONARY" in used}
    assert not dictionary & split
    assert {"row_id", "finish_reason", "topic", "tags.list.element", "token_ranks.list.element"} <= dictionary
    assert not dictionary & {"text", "token_ids.list.element", "top_token_ids.list.element.list.element"}


def test_kept_columns_are_encoded_as_usual_whatever_their_names() -> None:
    kept = pa.schema(
        [
            ("a.b", pa.list_(pa.float32())),
            ("a", pa.struct([("b", pa.float32()), ("text", pa.string())])),
            ("e é", pa.int8()),
        ]
    )
    schema = output_schema(kept, statistics=["logprob"], top_logprobs=0, prompt_logprobs=False, include_prompt=False)
    rows, done, _ = shard(6)
    values: Any = [[[1.0]] * 6, [{"b": 1.0, "text": "x"}] * 6, [1] * 6]
    built = build_table(schema, rows, done, pa.table(values, schema=kept))
    data = encode_part(built, CONFIG, {})
    assert pq.read_table(pa.BufferReader(data)).select([0, 1, 2, 3, 4]).equals(built.select([0, 1, 2, 3, 4]))
    split = {path for path, used in encodings(data).items() if "BYTE_STREAM_SPLIT" in used}
    assert split == {"token_logprobs.list.element"}


@pytest.mark.parametrize("compression", list(COMPRESSIONS))
def test_every_compression_of_the_configuration(compression: str) -> None:
    data = encoded(config=OutputConfig(path="out", compression=compression))
    used = pq.read_metadata(pa.BufferReader(data)).row_group(0).column(0).compression
    assert used == {"none": "UNCOMPRESSED"}.get(compression, compression.upper())
    assert pq.read_table(pa.BufferReader(data)).num_rows == 40


def test_the_same_input_gives_the_same_bytes() -> None:
    assert encoded() == encoded()


def test_pages_have_an_index() -> None:
    column = pq.read_metadata(pa.BufferReader(encoded())).row_group(0).column(0)
    assert column.has_column_index
    assert column.has_offset_index


def test_row_groups_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert part.ROWS_PER_GROUP == 10_000
    monkeypatch.setattr(part, "ROWS_PER_GROUP", 16)
    metadata = pq.read_metadata(pa.BufferReader(encoded()))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [16, 16, 8]


def test_a_flipped_bit_in_any_page_is_found() -> None:
    data = bytearray(encoded(config=OutputConfig(path="out", compression="none")))
    metadata = pq.read_metadata(pa.BufferReader(bytes(data)))
    for i in range(metadata.num_columns):
        column = metadata.row_group(0).column(i)
        place = column.data_page_offset + column.total_compressed_size // 2
        if column.dictionary_page_offset is not None:
            place = column.dictionary_page_offset + column.total_compressed_size - 1
        data[place] ^= 1
        with pytest.raises(OSError, match=r"(?i)checksum|crc"):
            pq.read_table(pa.BufferReader(bytes(data)), page_checksum_verification=True)
        data[place] ^= 1


def test_counts() -> None:
    rows, done, kept = shard(10, n=3)
    counts = count_rows(rows, build_table(FULL, rows, done, kept))
    tokens = sum(len(c.token_ids) for c in done.values())
    ends = collections.Counter(str(c.finish_reason) for c in done.values())
    lengths = [len(c.token_ids) for c in done.values()]
    assert counts == Counts(
        10,
        30,
        8 * 3,
        tokens,
        {"EMPTY_PROMPT": 6},
        {"error": 6, **ends},
        {"shortest": min(lengths), "longest": max(lengths)},
    )
    assert count_rows([], FULL.empty_table()) == Counts()


def test_rows_that_the_context_clamps_and_grammars_that_are_cut_off() -> None:
    rows, done, kept = shard(10, n=3)
    table = build_table(FULL, rows, done, kept)
    room = len(rows[0].prompt_token_ids) + rows[0].sampling.max_tokens
    assert count_rows(rows, table, room).clamped_rows == 0
    assert count_rows(rows, table, room - 1).clamped_rows == sum(row.error is None for row in rows)
    assert count_rows(rows, table).cut_off == 0
    follow = [replace(row, sampling=SamplingParams(n=3, regex="a+")) for row in rows]
    assert count_rows(follow, table).cut_off == sum(c.finish_reason == "length" for c in done.values()) > 0


@pytest.mark.parametrize("count", [0, 20])
def test_a_report_is_read_from_the_footer(store: LocalStore, count: int) -> None:
    rows, done, kept = shard(count)
    data = encoded(count)
    store.put("data/p", data)
    counts = count_rows(rows, build_table(FULL, rows, done, kept))
    assert read_report(store, "data/p") == PartInfo(ID, 3, "1", __version__, counts)


def test_a_part_is_committed_once_and_recognised_as_own(store: LocalStore) -> None:
    assert commit_part(store, "data/p", encoded(attempt="1"), ID)
    assert not commit_part(store, "data/p", encoded(attempt="2"), ID)
    assert read_report(store, "data/p").attempt == "1"


@pytest.mark.parametrize("found", [b"junk", b"PAR1junkPAR1", encoded()[:-9]])
def test_a_file_in_the_way_is_refused_by_name(store: LocalStore, found: bytes) -> None:
    store.put("data/p", found)
    with pytest.raises(PlanRefused, match="data/p already exists and is not a part"):
        commit_part(store, "data/p", encoded(), ID)
    assert store.get("data/p") == found


def test_a_part_of_another_plan_is_refused(store: LocalStore) -> None:
    store.put("data/p", encoded(plan_id=OTHER))
    with pytest.raises(PlanRefused, match="belongs to plan bbbbbbbb"):
        commit_part(store, "data/p", encoded(), ID)


@pytest.mark.parametrize(
    "metadata", [{}, {"promptmill.plan_id": ID}, {**part_metadata(ID, 1, "1", Counts()), "promptmill.report": "[1]"}]
)
def test_parquet_that_is_not_a_part_has_no_report(store: LocalStore, metadata: dict[str, str]) -> None:
    store.put("data/p", encode_part(FULL.empty_table(), CONFIG, metadata))
    with pytest.raises(ValueError, match="data/p: its footer is not of a part"):
        read_report(store, "data/p")


def test_the_digest_of_a_file_longer_than_a_piece(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "PIECE", 3)
    store.put("a", b"abcdefgh")
    assert sha256_of(store, "a") == "9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab"


@pytest.mark.parametrize("kind", ["empty", "folder", "folder with files", "link to nowhere"])
def test_what_only_has_a_parts_name_is_set_aside(tmp_path: Path, kind: str) -> None:
    store, made = LocalStore(tmp_path), plan(rows=3)
    name = part_name(made.plan8, 0, 1)
    place = tmp_path / name
    place.parent.mkdir()
    if kind.startswith("folder"):
        place.mkdir()
        if kind.endswith("files"):
            (place / "mine").write_bytes(b"mine")
    elif kind.startswith("link"):
        place.symlink_to("nowhere")
    else:
        place.write_bytes(b"")
    folder = OutputFolder(store)
    assert folder.committed(made) == set() and not folder.is_committed(made, 0)
    assert not commit(store, made, 0).already_there
    assert folder.committed(made) == {0} and folder.is_committed(made, 0)
    (aside,) = (tmp_path / "_job" / "set_aside").iterdir()
    assert os.path.lexists(aside / name)
    if kind == "folder with files":
        assert (aside / name / "mine").read_bytes() == b"mine"


def test_a_file_that_could_be_a_part_is_not_moved(tmp_path: Path) -> None:
    store, made = LocalStore(tmp_path), plan(rows=3)
    store.put(part_name(made.plan8, 0, 1), b"1")
    with pytest.raises(PlanRefused, match="is not a part"):
        commit(store, made, 0)
    assert not (tmp_path / "_job" / "set_aside").exists()
