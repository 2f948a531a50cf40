"""Matches rows on disk: a folder of buckets, each with the rows of some ids, so that one bucket fits into memory."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import PlanRefused

AT = "__at"
"""The column with a row's place in its output."""
BUCKET_BYTES = 64 << 20
BUCKET_ROWS = 50_000
"""What a bucket holds of each side, about."""
_MOST_BUCKETS = 256
"""Files that are open at once are as many."""
_CHUNK_ROWS = 20_000
_CHUNK_BYTES = 32 << 20
"""Rows that are divided among the buckets at a time."""


def bucket_count(rows: int, size: int) -> int:
    """Return the number of buckets for so many rows and bytes of the larger side."""
    return max(1, min(_MOST_BUCKETS, max(-(-rows // BUCKET_ROWS), -(-size // BUCKET_BYTES))))


@contextlib.contextmanager
def bucket_folder(needed: int) -> Iterator[Path]:
    """Yield a temporary folder, which is removed however the block ends.

    Args:
        needed: Bytes that may be written to it.

    Raises:
        PlanRefused: If its disk has no room for them, or gets full.
    """
    with tempfile.TemporaryDirectory(prefix="promptmill-diff-") as name:
        free = shutil.disk_usage(name).free
        if free < needed:
            raise PlanRefused(
                f"the outputs are in different orders, so their rows are matched on disk: {Path(name).parent} has "
                f"{free / 2**30:.1f} GiB free, and up to {needed / 2**30:.1f} are needed; name another folder with TMPDIR"
            )
        try:
            yield Path(name)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise PlanRefused(
                f"{Path(name).parent} filled up while rows were matched there; name another folder with TMPDIR"
            ) from error


def divide(batches: Iterable[pa.RecordBatch], first: int, folder: Path, count: int) -> None:
    """Write rows to the buckets `0` to `count - 1` of a folder, by their ids.

    Args:
        batches: The rows.
        first: The place of the first of them in its output.
        folder: Where to; it is made.
        count: Number of buckets.
    """
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        writers: dict[int, Any] = {}
        for table in _numbered(batches, first):
            bucket = _buckets(table.column("row_id").to_pylist(), count)
            order = np.argsort(bucket, kind="stable")
            bounds = np.searchsorted(bucket[order], np.arange(count + 1))
            sorted_table = table.take(order)
            for number in range(count):
                rows = sorted_table.slice(int(bounds[number]), int(bounds[number + 1] - bounds[number]))
                if not rows.num_rows:
                    continue
                if number not in writers:
                    options = pa.ipc.IpcWriteOptions(compression="lz4")
                    writer = pa.ipc.new_stream(str(folder / str(number)), table.schema, options=options)
                    writers[number] = stack.enter_context(writer)
                writers[number].write_table(rows)


def bucket(folder: Path, number: int) -> pa.Table | None:
    """Return the rows of a bucket, which is removed; None if it has none."""
    path = folder / str(number)
    if not path.exists():
        return None
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_stream(file) as stream:
        rows: pa.Table = stream.read_all()
    path.unlink()
    return rows


def _numbered(batches: Iterable[pa.RecordBatch], first: int) -> Iterator[pa.Table]:
    """Join batches to larger tables, whose rows have their places."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(b.num_rows for b in held) >= _CHUNK_ROWS or sum(b.nbytes for b in held) >= _CHUNK_BYTES:
            yield _with_places(held, first)
            first += sum(b.num_rows for b in held)
            held = []
    if held:
        yield _with_places(held, first)


def _with_places(held: list[pa.RecordBatch], first: int) -> pa.Table:
    table: Any = pa.Table.from_batches(held).combine_chunks()
    made: pa.Table = table.append_column(AT, pa.array(np.arange(first, first + table.num_rows, dtype=np.int64)))
    return made


def _buckets(row_ids: list[Any], count: int) -> npt.NDArray[np.int64]:
    """Return the bucket of each id: the same in every run, so that what is shown is."""
    return np.fromiter((zlib.crc32(str(i).encode()) % count for i in row_ids), np.int64, len(row_ids))
