"""Reads row ranges of the input files: only the columns that are needed, and each row once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.fs

from pipeline.errors import InputRefused
from pipeline.planning.plan import InputFile
from pipeline.prompts.files.cursor import FileCursor, Gap
from pipeline.prompts.files.kinds import brought_to
from pipeline.types import Segment
from pipeline.wording import brief, one_line

MOST_BYTES = 2 << 30
"""Most decoded bytes of the rows of a task: a page of a few kilobytes can unpack to half a gigabyte."""


class RowReader:
    """Reads the rows of segments. At most one file is open; its segments are read in one pass if they ascend."""

    def __init__(
        self,
        filesystem: pyarrow.fs.FileSystem,
        files: Sequence[InputFile],
        columns: Sequence[str],
        schema: pa.Schema,
        *,
        verify: bool = False,
    ) -> None:
        """Remember what to read; nothing is opened yet.

        Args:
            filesystem: Where the files are.
            files: The files that segments refer to by number.
            columns: The columns wanted, in the order wanted; none at all is fine.
            schema: The source's schema, which has them all.
            verify: Whether the plan's digests are of these columns; if so, pages that differ are refused.

        Raises:
            KeyError: If a column is not in the schema.
        """
        self._filesystem, self._files, self._verify = filesystem, files, verify
        self._digests: dict[tuple[int, int], str] = {}
        # Without metadata: pandas' own describes columns that may not be read.
        self._schema = pa.schema([pa.field(name, schema.field(name).type) for name in columns])
        self._number = -1
        self._cursor: FileCursor | None = None

    def read(self, segments: Sequence[Segment]) -> pa.Table:
        """Return the rows of the segments, one after the other, partition columns filled in.

        Raises:
            CorruptInput: If a page cannot be decoded; the text names the file and the row group.
            InputRefused: If a file is not the one that was planned.
        """
        return self._read(segments, skip=False)[0]

    def read_with_gaps(self, segments: Sequence[Segment]) -> tuple[pa.Table, list[int]]:
        """Return the rows of the segments, and the numbers of those that cannot be decoded: these are all null.

        Raises:
            InputRefused: If a file is not the one that was planned.
        """
        return self._read(segments, skip=True)

    def _read(self, segments: Sequence[Segment], *, skip: bool) -> tuple[pa.Table, list[int]]:
        chunks: dict[str, list[pa.Array[Any]]] = {name: [] for name in self._schema.names}
        gaps: list[int] = []
        at = held = 0
        for segment in segments:
            rows = segment.stop - segment.start
            cursor = self._open(segment.file)
            for batch in cursor.take(segment.start, segment.stop, skip=skip) if cursor.columns else ():
                gaps += range(at, at + batch.num_rows) if isinstance(batch, Gap) else ()
                at += batch.num_rows
                for name in cursor.columns:
                    kind = self._schema.field(name).type
                    chunks[name].append(
                        pa.nulls(batch.num_rows, kind)
                        if isinstance(batch, Gap)
                        else self._fitted(batch.column(name), name, segment.file)
                    )
                    held += _bytes(chunks[name][-1])
                if held > MOST_BYTES:
                    raise InputRefused(
                        f"{one_line(self._files[segment.file].name)}: rows {segment.start} to {segment.stop} hold more than "
                        f"{MOST_BYTES:,} bytes when unpacked; use a smaller output.rows_per_shard, or leave out the long values"
                    )
            at += 0 if cursor.columns else rows
            for name in self._schema.names:
                if name not in cursor.columns:
                    chunks[name].append(_constant(self._files[segment.file].partitions.get(name), rows))
        if not chunks:
            # Only this way does Arrow keep the number of rows of a table without columns.
            return pa.table({"": pa.nulls(sum(s.stop - s.start for s in segments))}).select([]), gaps
        columns = [pa.chunked_array(chunks[field.name], type=field.type) for field in self._schema]
        return pa.Table.from_arrays(columns, schema=self._schema), gaps

    def digests(self) -> dict[tuple[int, int], str]:
        """Return the digests of the pages read since the last call: (number of the file, of its row group) → digest."""
        self._note_digests()
        new, self._digests = self._digests, {}
        return new

    def _note_digests(self) -> None:
        if self._cursor is not None:
            self._digests |= {(self._number, group): digest for group, digest in self._cursor.digests.items()}
            self._cursor.digests.clear()

    def _fitted(self, values: pa.Array[Any], name: str, file: int) -> pa.Array[Any]:
        try:
            fitted: pa.Array[Any] = brought_to(values, self._schema.field(name).type)
        except pa.ArrowException as error:
            where = f"{one_line(self._files[file].name)}: column {brief(name)}"
            raise InputRefused(
                f"{where} does not fit the type that the column has in all files: {one_line(error)}"
            ) from error
        return fitted

    def look(self) -> None:
        """Check that the first file can be read from this machine.

        Raises:
            InputRefused: If it is not there, or is not the one that was planned.
        """
        if self._files:
            self._open(0)

    def close(self) -> None:
        """Close the file that is open, if one is; reading again opens it again."""
        self._note_digests()
        if self._cursor is not None:
            self._cursor.close()
        self._cursor, self._number = None, -1

    def _open(self, number: int) -> FileCursor:
        if self._cursor is None or number != self._number:
            self.close()
            self._cursor = FileCursor(self._filesystem, self._files[number], self._schema.names, verify=self._verify)
            self._number = number
        return self._cursor


def _constant(value: str | None, rows: int) -> pa.Array[Any]:
    """Return a partition column: [rows] of the same string, or of nulls."""
    return pa.nulls(rows, pa.string()) if value is None else pa.repeat(pa.scalar(value, pa.string()), rows)


def _bytes(values: Any) -> int:
    """Return the bytes of an array, without those of its dictionary, which many arrays share."""
    return int((values.indices if pa.types.is_dictionary(values.type) else values).nbytes)
