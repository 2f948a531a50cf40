"""A few rows of a finished part, to show people what was generated.

It does not know how they are shown.
"""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq

from pipeline.store.base import Store

_CANDIDATES = 64


def read_samples(store: Store, name: str, most: int = 3) -> list[tuple[str, str]]:
    """Return (prompt, text) of the first rows of a part that have a text; the prompt is empty where none was written."""
    with store.open(name) as file:
        parquet = pq.ParquetFile(file)
        columns = [c for c in ("prompt", "text") if c in parquet.schema_arrow.names]
        batch = next(parquet.iter_batches(batch_size=_CANDIDATES, columns=columns), None)
    if batch is None:
        return []
    rows = [(row.get("prompt") or "", row["text"]) for row in batch.to_pylist() if row.get("text")]
    return rows[:most]


def read_rows(store: Store, most: int, *, errors: bool = False) -> list[dict[str, Any]] | None:
    """Return the first rows of an output in the order of its parts, without lists; null where it has no part.

    Args:
        store: The output.
        most: Rows at most.
        errors: Only rows that are errors.
    """
    names = [file.name for file in store.list("data/") if file.name.endswith(".parquet")]
    rows: list[dict[str, Any]] = []
    for name in names:
        with store.open(name) as file:
            parquet = pq.ParquetFile(file)
            wanted = ("row_id", "sample_index", "prompt", "text", "finish_reason", "error_code", "error_message")
            columns = [column for column in wanted if column in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(batch_size=_CANDIDATES, columns=columns):
                rows += [row for row in batch.to_pylist() if row["error_code"] is not None or not errors]
                if len(rows) >= most:
                    return rows[:most]
    return rows if names else None
