"""Kept columns keep what the file says of them, however deep in a value. DuckDB and pyarrow are the oracles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.small_runs import generate, messages, read, write

VALUES = {
    "uuid": "uuid '00010203-0405-0607-0809-0a0b0c0d0e0f'", "json": "'{\"a\": 1}'::JSON", "label": "'x'::ENUM('x', 'y')",
    "date": "DATE '1500-01-01'", "whole": "TIMESTAMP_S '2020-01-01 01:02:03'",
    "nanos": "TIMESTAMP_NS '2020-01-01 01:02:03.5'",
    "zoned": "TIMESTAMPTZ '2020-01-01 01:02:03+01'", "time": "TIME '01:02:03.5'", "money": "1.25::DECIMAL(38, 10)",
    "small": "200::UTINYINT", "large": "18446744073709551615::UBIGINT", "number": "1.5::FLOAT", "bytes": r"'\xAA'::BLOB",
    "words": "'t'",
}  # fmt: skip


def nestings(name: str, value: str) -> list[str]:
    """The value alone, in a list, in a struct, in a map and deep, with nulls on every level; `i` numbers the rows."""
    return [
        f"CASE WHEN i <> 2 THEN {value} END {name}",
        f"CASE WHEN i <> 1 THEN [{value}, NULL] END {name}_list",
        f"CASE WHEN i <> 1 THEN struct_pack(x := {value}, y := CASE WHEN i <> 2 THEN {value} END) END {name}_struct",
        f"CASE WHEN i <> 1 THEN MAP(['k'], [{value}]) END {name}_map",
        f"[struct_pack(x := [{value}]), NULL] {name}_deep",
    ]


def asked(query: str) -> list[tuple[Any, ...]]:
    return duckdb.execute(query).fetchall()


def described(files: str) -> dict[str, str]:
    return {row[0]: row[1] for row in asked(f"DESCRIBE FROM '{files}'")}


def test_what_duckdb_wrote_has_the_same_types_and_values_in_the_output(tmp_path: Path) -> None:
    columns = [column for name, value in VALUES.items() for column in nestings(name, value)]
    source = tmp_path / "in.parquet"
    duckdb.sql(f"COPY (SELECT 'Lost' prompt, {', '.join(columns)} FROM range(4) rows(i)) TO '{source}'")
    before = described(str(source))
    names = [name for name in before if name != "prompt"]
    assert generate(source, tmp_path / "out", f"source.keep_columns=[{','.join(names)}]") == 0
    parts = f"{tmp_path}/out/data/*.parquet"
    after = described(parts)
    for name in names:
        kind = re.sub(r"^MAP\((\w+), (.*)\)$", r'STRUCT("key" \1, "value" \2)[]', before[name])
        assert after[name] == kind, name
        shown = f"map_entries({name})" if name.endswith("_map") else name
        theirs = asked(f"SELECT ({shown})::VARCHAR FROM '{source}'")
        assert asked(f"SELECT {name}::VARCHAR FROM '{parts}' ORDER BY row_id") == theirs, name


@pytest.mark.parametrize("stored", [True, False])
def test_what_pyarrow_wrote_reads_the_same(tmp_path: Path, stored: bool) -> None:
    """With and without Arrow's own description in the file, and from rows in the middle of arrays."""
    keys = [bytes([i]) * 16 if i % 3 else None for i in range(40)]
    ids: Any = pa.ExtensionArray.from_storage(pa.uuid(), pa.array(keys, pa.binary(16)))
    texts: Any = pa.array([f'{{"a": {i}}}' if i % 4 else None for i in range(40)], pa.json_())
    offsets: Any = pa.array(range(0, 41, 2), pa.int32())
    gone = pa.array([i % 5 == 0 for i in range(20)])
    pairs = pa.StructArray.from_arrays([ids, texts], names=["u", "j"])
    kept = {
        "lists": pa.ListArray.from_arrays(offsets, ids, mask=gone),
        "large": pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), texts, mask=gone),
        "fixed": pa.FixedSizeListArray.from_arrays(ids, 2, mask=gone),
        "structs": pairs.slice(7, 20),
        "deep": pa.ListArray.from_arrays(offsets, pairs, mask=gone),
    }
    table = pa.table({"prompt": ["Lost"] * 20, "id": range(20), **kept})
    pq.write_table(table, tmp_path / "in.parquet", store_schema=stored, row_group_size=7)
    options = f"source.keep_columns=[{','.join(kept)}]", "source.id_column=id", "output.rows_per_shard=6"
    assert generate(tmp_path / "in.parquet", tmp_path / "out", *options) == 0
    found = read(tmp_path / "out")
    order = [int(row["row_id"]) for row in found.select(["row_id"]).to_pylist()]
    for name in kept:
        expected = table.column(name).take(pa.array(order)).to_pylist()
        assert found.column(name).to_pylist() == expected, name


def test_a_template_prints_a_uuid_and_json_in_a_struct(tmp_path: Path) -> None:
    ids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(range(16))], pa.binary(16)))
    pairs = pa.StructArray.from_arrays([ids, pa.array(['{"a": 1}'], pa.json_())], names=["u", "j"])
    source = write(pa.table({"s": pairs}), tmp_path / "in.parquet")
    template = "source.template='{{ s.u }} {{ s.j }}'"
    assert generate(source, tmp_path / "out", "source.prompt_column=null", template, "output.include_prompt=true") == 0
    assert read(tmp_path / "out").column("prompt").to_pylist() == ['00010203-0405-0607-0809-0a0b0c0d0e0f {"a": 1}']


@pytest.mark.parametrize("value", ["[INTERVAL 1 MONTH]", "{'x': INTERVAL 1 MONTH}", "MAP(['k'], [INTERVAL 1 MONTH])"])
def test_an_interval_within_a_kept_value_is_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    duckdb.sql(f"COPY (SELECT 'Lost' prompt, {value} i) TO '{tmp_path}/in.parquet'")
    assert generate(tmp_path / "in.parquet", tmp_path / "out", "source.keep_columns=[i]") == 2
    told = capsys.readouterr().err
    assert "source.keep_columns: column 'i' is INTERVAL in a nested value, which Arrow does not have" in told
    assert "cast it in the input, to text for instance, or leave it out" in told and len(messages(told)) == 1
