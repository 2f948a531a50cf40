"""Writes tables of any schema to one Parquet file, though the schema is known only when the last of them was seen.

Row groups go to the file at once, in the schema that is known by then. When a table brings another, the file becomes a part,
and a new one is begun; in the end all parts are brought to the last schema. Most inputs show their schema in the first
megabytes, so that there is one part, which is the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.prompts.imports.kinds import NOTHING, Type, fitted_table, merged, written
from pipeline.store.appearing import Appearing, full_is_told

GROUP_BYTES = 32 << 20
GROUP_ROWS = 100_000
MOST_PARTS = 24
"""Parts that are open at a time; more are joined early."""
WRITING: dict[str, Any] = {
    "compression": "zstd", "compression_level": 3, "write_page_checksum": True, "write_page_index": True,
}  # fmt: skip


@dataclass(slots=True)
class _Part:
    """A temporary Parquet file without a name, of one schema."""

    place: Appearing
    kind: Type
    writer: pq.ParquetWriter

    def close(self) -> None:
        """Finish writing: the file is now valid Parquet."""
        if self.writer.is_open:
            self.writer.close()

    def drop(self) -> None:
        """Give it up."""
        self.writer.is_open = False  # or it would write a footer when it is collected
        self.place.close()


class Parts:
    """A Parquet file in the making.

    Attributes:
        kind: The type of a row so far: a struct.
        rows: Rows that it has.
        groups: Row groups that it has.
    """

    def __init__(self, folder: Path, group_rows: int | None, kind: Type = NOTHING) -> None:
        """Begin.

        Args:
            folder: Where the file will be.
            group_rows: Rows in a row group; None: as many as are `GROUP_BYTES`, `GROUP_ROWS` at most.
            kind: The type of a row as far as it is known.
        """
        self.kind, self.rows, self.groups = kind, 0, 0
        self._folder, self._group_rows = folder, group_rows
        self._parts: list[_Part] = []
        self._held: list[tuple[pa.Table, Type]] = []

    def add(self, table: pa.Table, kind: Type) -> None:
        """Add rows.

        Args:
            table: The rows.
            kind: Their type; the table has this type, or the one with which it is written.

        Raises:
            Misfit: If a column's type does not fit its earlier values; then nothing was added.
        """
        self.kind = merged(self.kind, kind)
        self.rows += table.num_rows
        if table.num_rows:
            self._held.append((table, kind))
        while (count := self._due()) > 0:
            self._write_group(count)

    def _due(self, *, last: bool = False) -> int:
        """Return the number of rows of the next row group; 0: more rows must come first."""
        if not len(self.kind):  # without a column, a file has no rows
            return 0
        rows = sum(table.num_rows for table, _ in self._held)
        most = self._group_rows or GROUP_ROWS
        full = rows >= most
        if self._group_rows is None and not full:
            full = sum(table.nbytes for table, _ in self._held) >= GROUP_BYTES
        return min(rows, most) if full or last else 0

    def _write_group(self, count: int) -> None:
        held = pa.concat_tables([fitted_table(table, kind, self.kind) for table, kind in self._held])
        self._held = [(held.slice(count), self.kind)] if count < held.num_rows else []
        part = self._part()
        with full_is_told(self._folder):
            part.writer.write_table(held.slice(0, count), row_group_size=count)
        self.groups += 1

    def _part(self) -> _Part:
        """The part for the present type."""
        if self._parts and self._parts[-1].kind == self.kind:
            return self._parts[-1]
        with full_is_told(self._folder):
            if self._parts:
                self._parts[-1].close()
            if len(self._parts) >= MOST_PARTS:
                self._join()
            if not self._parts or self._parts[-1].kind != self.kind or not self._parts[-1].writer.is_open:
                place = Appearing(self._folder)
                writer = pq.ParquetWriter(place.file, pa.schema(list(written(self.kind))), **WRITING)
                self._parts.append(_Part(place, self.kind, writer))
        return self._parts[-1]

    def _join(self) -> None:
        """Join all parts into one of the present type, and continue with it."""
        joined = Parts(self._folder, self._group_rows, self.kind)
        try:
            for part in self._parts:
                file = pq.ParquetFile(part.place.file)
                for group in range(file.metadata.num_row_groups):
                    joined.add(file.read_row_group(group), part.kind)
                part.drop()
            if joined._held:
                joined._write_group(joined._due(last=True))
        except BaseException:
            joined.drop()
            raise
        self._parts, self.groups = joined._parts, joined.groups

    def finish(self, name: str) -> int:
        """Write the rest, give the file its name, and return how many bytes it has.

        Raises:
            Misfit: If a whole number of an earlier row is not exact in a column that got numbers with fractions later.
            FileExistsError: If there is something of that name.
            StorageFull: If no space is left; then there is no file.
        """
        while self._held:
            self._write_group(self._due(last=True))
        part = self._part()
        with full_is_told(self._folder):
            if len(self._parts) > 1:
                part.close()
                self._join()
                part = self._part()
            part.close()
            size = part.place.appear(name)
        self._parts = []
        return size

    def drop(self) -> None:
        """Give it up: nothing of it stays."""
        for part in self._parts:
            part.drop()
        self._parts, self._held = [], []
