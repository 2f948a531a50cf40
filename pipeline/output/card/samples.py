"""Reads a few rows of a finished part for the dataset card."""

from __future__ import annotations

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
