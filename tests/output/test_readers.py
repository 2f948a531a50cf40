"""The parts and the folder open in pandas, Polars, DuckDB and datasets, full, empty and full of errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.output.card.card import CARD, dataset_card
from pipeline.output.config import OutputConfig
from pipeline.output.part import encode_part
from pipeline.output.table import build_table
from pipeline.store.local import LocalStore
from pipeline.types import ErrorCode, RowError
from tests.output.made_output import FULL, KEPT, commit, finish, plan, row, shard


def tables() -> dict[str, pa.Table]:
    rows, done, kept = shard(10)
    bad = [row(i, n=2, error=RowError(ErrorCode.NULL_PROMPT, "null")) for i in range(3)]
    return {
        "full": build_table(FULL, rows, done, kept),
        "empty": FULL.empty_table(),
        "errors": build_table(FULL, bad, {}, pa.table([[None] * 3, [None] * 3], schema=KEPT)),
    }


@pytest.fixture(params=["full", "empty", "errors"])
def part(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    table = tables()[request.param]
    path = tmp_path / "part.parquet"
    path.write_bytes(encode_part(table, OutputConfig(path="out"), {}))
    return path, table.to_pylist()


def test_pandas(part: tuple[Path, list[dict[str, Any]]]) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(part[0])
    assert list(frame.columns) == FULL.names
    assert frame["row_id"].tolist() == [r["row_id"] for r in part[1]]
    assert frame["finish_reason"].astype(str).tolist() == [r["finish_reason"] for r in part[1]]
    assert [None if v is None else v.tolist() for v in frame["token_logprobs"]] == [
        r["token_logprobs"] for r in part[1]
    ]


def test_polars(part: tuple[Path, list[dict[str, Any]]]) -> None:
    polars = pytest.importorskip("polars")
    assert polars.read_parquet(part[0]).to_dicts() == part[1]
    assert polars.scan_parquet(part[0]).select("top_token_logprobs").collect().height == len(part[1])


def test_duckdb(part: tuple[Path, list[dict[str, Any]]]) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT * FROM '{part[0]}'").fetchall()
    assert [dict(zip(FULL.names, r, strict=True)) for r in rows] == part[1]


LOAD = """
import json, sys
from datasets import load_dataset
full, errors, empty = sys.argv[1:]
loaded = load_dataset(full, split="train")
print(json.dumps({
    "names": loaded.column_names,
    "ids": loaded["row_id"][:],
    "reasons": loaded["finish_reason"][:],
    "top": loaded["top_token_logprobs"][:],
    "errors": load_dataset(errors, split="train")["token_ids"][:],
    "empty": len(list(load_dataset(empty, split="train", streaming=True))),
}))
"""


def test_datasets_loads_the_folder_by_its_card(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    for name, rows in (("full", 10), ("errors", 10), ("empty", 0)):
        store, made = LocalStore(tmp_path / name), plan(rows=rows)
        manifest = finish(store, made, {i: commit(store, made, i) for i in range(made.shard_count)}, {}, {})
        store.put(
            CARD, dataset_card(manifest, made, model="m", sampling={}, schema=FULL, title="t", meanings={}).encode()
        )
        store.put("data/elsewhere.parquet", b"not ours, and not loaded")
        if name == "errors":
            for part in manifest.parts:
                store.put(part.file, encode_part(tables()["errors"], OutputConfig(path="out"), {}))
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    folders = [str(tmp_path / name) for name in ("full", "errors", "empty")]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *folders], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    expected = [
        record for rows in (4, 4, 2) for items in [shard(rows)] for record in build_table(FULL, *items).to_pylist()
    ]
    assert found["names"] == FULL.names
    assert found["ids"] == [r["row_id"] for r in expected]
    assert found["reasons"] == [r["finish_reason"] for r in expected]
    assert found["top"] == [r["top_token_logprobs"] for r in expected]
    assert found["errors"] == [None] * 18
    assert found["empty"] == 0
