"""Whatever JSON holds is in the Parquet file, as Python's own json, DuckDB and Arrow's reader tell."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import lzma
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.prompts.imports import chunk
from pipeline.prompts.imports.config import ImportConfig, ImportOutput, ImportSource
from pipeline.prompts.imports.importing import import_prompts
from pipeline.prompts.imports.readers import blocks as blocks_module
from pipeline.prompts.imports.readers import csv_rows, json_values, text
from tests.example_counts import examples

TEXTS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["2024-01-31", "2024-01-31 10:00:00", "1", "null", "true", "", "\0", "a\nb", '"', "\\ud800", "{[", "é€😀"]
)
NAMES = st.sampled_from(["a", "b", "prompt", "", "a.b", "é", "x y"])


def leaves() -> st.SearchStrategy[st.SearchStrategy[Any]]:
    return st.sampled_from([
        TEXTS, st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False),
        st.integers(-1000, 1000) | st.floats(-1e6, 1e6), st.integers(-(2**63), 2**63 - 1), st.none(),
    ])  # fmt: skip


def nested(values: st.SearchStrategy[Any]) -> st.SearchStrategy[st.SearchStrategy[Any]]:
    """Of strategies of values of one type: those of lists of them, and of objects that may lack any of their fields."""
    lists = values.map(lambda of: st.lists(of | st.none(), max_size=3))
    return lists | st.dictionaries(NAMES, values, max_size=3).map(
        lambda fields: st.fixed_dictionaries({}, optional={name: of | st.none() for name, of in fields.items()})
    )


KINDS = st.recursive(leaves(), nested, max_leaves=6)
"""Strategies, each of values of one type."""


@st.composite
def lists_of_records(draw: st.DrawFn) -> list[dict[str, Any]]:
    fields = {name: of | st.none() for name, of in draw(st.dictionaries(NAMES, KINDS, min_size=1, max_size=4)).items()}
    return draw(st.lists(st.fixed_dictionaries({}, optional=fields), min_size=1, max_size=12))


def same(wanted: Any, found: Any) -> bool:
    """Whether a value of JSON is what Parquet has: a field that is missing is null, and so may be an object without fields."""
    if isinstance(wanted, dict):
        if found == "{}":  # an object that has no field in any row
            return not wanted
        return (
            isinstance(found, dict)
            and all(same(wanted.get(name), found[name]) for name in found)
            and set(wanted) <= set(found)
        )
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(same, wanted, found))
    if isinstance(wanted, float) or isinstance(found, float):
        return found is not None and wanted is not None and float(found) == wanted
    return type(wanted) is type(found) and bool(wanted == found)


@contextlib.contextmanager
def small_chunks(monkeypatch: pytest.MonkeyPatch, size: int) -> Iterator[None]:
    """Chunks of some bytes, so that a few rows are many of them."""
    with monkeypatch.context() as patch:
        for module in (chunk, blocks_module, json_values, csv_rows, text):
            patch.setattr(module, "CHUNK_BYTES", size)
        for module in (blocks_module, json_values):
            patch.setattr(module, "_READ_BYTES", size)
        yield


def imported(folder: Path, name: str, data: bytes, **options: Any) -> list[dict[str, Any]]:
    (folder / name).write_bytes(data)
    target = folder / "out.parquet"
    target.unlink(missing_ok=True)
    import_prompts(
        ImportConfig(source=ImportSource(path=str(folder / name)), output=ImportOutput(path=str(target)), **options)
    )
    return pq.read_table(target).to_pylist()


def unlike(records: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[Any]:
    return [(a, b) for a, b in zip(records, found, strict=True) if not same(a, b)]


@pytest.mark.parametrize("size", [20, 200, 8 << 20])
@pytest.mark.parametrize("layout", ["jsonl", "ascii", "array", "laid out"])
def test_any_records_come_back(size: int, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @settings(max_examples=examples(60))
    @given(lists_of_records())
    def check(records: list[dict[str, Any]]) -> None:
        if not any(records) or inexact(records):
            return
        if layout == "array":
            content = json.dumps(records, ensure_ascii=False)
        elif layout == "laid out":
            content = "\n".join(json.dumps(record, indent=2) for record in records)
        else:
            content = "\n".join(json.dumps(record, ensure_ascii=layout == "ascii") for record in records)
        name, kind = ("x.jsonl", "jsonl") if layout in ("jsonl", "ascii") else ("x.json", "json")
        found = imported(tmp_path, name, content.encode(), format=kind)
        assert not unlike(records, found)

    with small_chunks(monkeypatch, size):
        check()


def inexact(records: list[dict[str, Any]]) -> bool:
    """Whether some column has numbers with fractions, and whole numbers that would not be exact among them."""
    numbers: dict[tuple[str, ...], list[Any]] = {}

    def gather(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            for name, part in value.items():
                gather(part, (*path, name))
        elif isinstance(value, list):
            for part in value:
                gather(part, (*path, "[]"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers.setdefault(path, []).append(value)

    gather(records, ())
    return any(
        any(isinstance(v, float) for v in values) and any(isinstance(v, int) and int(float(v)) != v for v in values)
        for values in numbers.values()
    )


def test_what_duckdb_reads_of_json_lines_is_what_it_reads_of_the_parquet_file(tmp_path: Path) -> None:
    rows = [
        {
            "id": i,
            "messages": [{"role": "user", "content": f"é {i}"}] * (i % 3),
            "score": i / 7,
            "meta": {"tags": ["a"], "n": None},
        }
        for i in range(500)
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\r\n\n" for row in rows))
    imported(tmp_path, "x.jsonl", (tmp_path / "x.jsonl").read_bytes())
    order = "SELECT id, messages, score, meta.tags FROM {} ORDER BY id"
    from_json, ours = (
        duckdb.execute(order.format(place)).fetchall()
        for place in (f"read_json('{tmp_path}/x.jsonl')", f"'{tmp_path}/out.parquet'")
    )
    assert ours == from_json


def test_numbers_that_python_writes_and_json_has_not(tmp_path: Path) -> None:
    found = imported(tmp_path, "x.jsonl", b'{"a": NaN}\n{"a": -Infinity}\n{"a": 1}\n')
    assert math.isnan(found[0]["a"]) and [row["a"] for row in found[1:]] == [-math.inf, 1.0]


@pytest.mark.parametrize("pack", ["plain", "gzip", "zstd", "bz2", "xz", "lz4"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_packed_and_in_other_encodings(pack: Any, encoding: str, tmp_path: Path) -> None:
    rows = [{"prompt": f"größer als {i} €, 😀"} for i in range(3000)]
    data = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode(encoding)
    if pack == "xz":
        data = lzma.compress(data)
    elif pack != "plain":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, pack) as stream:
            stream.write(data)
        data = sink.getvalue().to_pybytes()
    assert imported(tmp_path, "x.jsonl", data) == rows


def test_several_members_of_gzip_are_one_file(tmp_path: Path) -> None:
    data = gzip.compress(b'{"a": 1}\n') + gzip.compress(b'{"a": 2}\n')
    assert imported(tmp_path, "x.jsonl.gz", data) == [{"a": 1}, {"a": 2}]


CELLS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r"), max_size=8)


@pytest.mark.parametrize("size", [10, 8 << 20])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_any_csv_comes_back_as_text(size: int, delimiter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @settings(max_examples=examples(60))
    @given(st.lists(st.tuples(CELLS, CELLS | st.just("007"), CELLS), max_size=8))
    def check(rows: list[tuple[str, ...]]) -> None:
        written = io.StringIO()
        csv.writer(written, delimiter=delimiter).writerows([("prompt", "n", "x"), *rows])
        found = imported(tmp_path, "x.csv", written.getvalue().encode())
        assert [tuple(row.values()) for row in found] == rows

    with small_chunks(monkeypatch, size):
        check()


@settings(max_examples=examples(60))
@given(st.lists(CELLS, min_size=1))
def test_any_lines_of_text_come_back_without_the_blank_ones(tmp_path_factory: Any, lines: list[str]) -> None:
    folder = tmp_path_factory.mktemp("text")
    lines = [line.replace("\n", " ") for line in lines]
    found = imported(folder, "x.txt", "\r\n".join(lines).encode())
    assert [row["prompt"] for row in found] == [line for line in lines if line.encode().strip()]


def test_a_schema_that_goes_on_changing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.prompts.imports.parts.MOST_PARTS", 3)
    kinds: list[Callable[[int], dict[str, Any]]] = [
        lambda i: {"a": i}, lambda i: {"b": {}}, lambda i: {"a": i + 0.5, "c": []}, lambda i: {"b": {"x": None}},
        lambda i: {"c": [{"y": "z"}, {}]}, lambda i: {"b": {"x": [i]}}, lambda i: {"d": None}, lambda i: {"e": [[]], "b": None},
        lambda i: {"e": [[{}]]}, lambda i: {"e": [[{"k": "2024-01-31"}], None]},
    ]  # fmt: skip
    records = [make(i) for make in kinds for i in range(7)]
    with small_chunks(monkeypatch, 30):
        found = imported(tmp_path, "x.jsonl", "\n".join(map(json.dumps, records)).encode(), row_group_rows=4)
    assert not unlike(records, found)
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [4] * 17 + [2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "x.jsonl"]


def test_what_never_has_a_value_is_text(tmp_path: Path) -> None:
    imported(tmp_path, "x.jsonl", b'{"a": null, "b": {}, "c": [], "d": [{}], "e": {"f": {"g": {}}}, "h": 1}\n')
    schema = pq.read_schema(tmp_path / "out.parquet")
    texts = pa.list_(pa.string())
    within = pa.struct([("f", pa.struct([("g", pa.string())]))])
    assert dict(zip(schema.names, schema.types, strict=True)) == {
        "a": pa.string(), "b": pa.string(), "c": texts, "d": texts, "e": within, "h": pa.int64(),
    }  # fmt: skip


def test_the_file_is_the_same_every_time(tmp_path: Path) -> None:
    rows = [{"t": "2024-01-31", "n": i, **({"late": i} if i > 90_000 else {})} for i in range(100_000)]
    data = "\n".join(json.dumps({**row, "x": "y" * 200}) for row in rows).encode()
    contents = set()
    for _ in range(3):
        imported(tmp_path, "x.jsonl", data)
        contents.add((tmp_path / "out.parquet").read_bytes())
    assert len(contents) == 1
