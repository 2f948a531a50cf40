"""Goes forward through the rows of one Parquet file, decoding no row twice and holding a few thousand at most."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from pipeline.errors import CorruptInput, InputRefused, PromptmillError, StoreUnavailable
from pipeline.planning.plan import InputFile
from pipeline.prompts.parquet.content import is_near, scan, stamp_of
from pipeline.prompts.parquet.footer import READING, Footer, open_file, read_footer
from pipeline.wording import one_line

_READ_BUFFER = 1 << 20  # bytes buffered for each column, whatever the size of its chunk
_BATCH_BYTES = 8 << 20  # decoded bytes to aim at
_MOST_BYTES = 64 << 20  # decoded bytes of a batch where every value were the longest of its dictionary
_BATCH_ROWS = 8192


@dataclass(frozen=True, slots=True)
class Gap:
    """Rows that cannot be decoded."""

    num_rows: int


class FileCursor:
    """An open file and a place in it.

    Parquet pages can only be decoded in order, and Arrow starts over with every call. So the decoder of the present
    row group stays open between calls, and what it decoded beyond the last row asked for is kept.
    """

    def __init__(
        self, filesystem: pyarrow.fs.FileSystem, file: InputFile, columns: Sequence[str], *, verify: bool = False
    ) -> None:
        """Open `file` for those of `columns` that it has.

        Args:
            filesystem: Where the file is.
            file: What the plan knows of it.
            columns: The columns wanted.
            verify: Whether the plan's digests are of these columns; if so, the pages are compared with them.

        Raises:
            InputRefused: If the file is not the one that was planned.
            StoreUnavailable: If its store does not answer.
        """
        self._filesystem, self._file, self._verify = filesystem, file, verify
        self.digests: dict[int, str] = {}  # row group → digest of its pages, of those that were read
        self._stamp = stamp_of(filesystem, file)  # before anything of it is read
        if file.stamp and file.stamp != self._stamp:
            raise _changed(file, f"{file.stamp} then, {self._stamp} now")
        self._handle, self._footer = _open_unchanged(filesystem, file, columns)
        footer = self._footer
        self.columns = [c for c in columns if c in footer.schema.names]
        self._parquet = pq.ParquetFile(
            self._handle,
            metadata=footer.metadata,
            pre_buffer=False,
            buffer_size=_READ_BUFFER,
            page_checksum_verification=True,
            **READING,
        )
        counts = (footer.metadata.row_group(i).num_rows for i in range(footer.metadata.num_row_groups))
        self._starts = [0, *itertools.accumulate(counts)]  # [row groups + 1]
        self._group = -1
        self._position = 0  # row number of the first row of `_rest`, or else of what `_batches` gives next
        self._batches: Iterator[pa.RecordBatch] | None = None  # none: the row group's pages were not looked at yet
        self._rest: pa.RecordBatch | None = None
        self._broken: dict[int, int] = {}  # row group → first row that cannot be decoded

    def take(self, start: int, stop: int, *, skip: bool = False) -> list[pa.RecordBatch | Gap]:
        """Return rows `start` to `stop` (exclusive) as batches of `columns`.

        Going on from the last `stop`, or skipping rows, decodes each row of a row group once; going back starts the
        row group again.

        Args:
            start: The first row.
            stop: The row after the last.
            skip: Return gaps instead of raising: from a page that cannot be decoded to the end of its row group. Where a
                gap begins depends on the file and the columns only, as batches begin at fixed rows.

        Raises:
            CorruptInput: If a page cannot be decoded; the text names the file and the row group.
            InputRefused: If the file is not the one that was planned.
            StoreUnavailable: If its store does not answer.
            ValueError: If the file has no such rows.
        """
        if not 0 <= start <= stop <= self._starts[-1]:
            raise ValueError(f"{self._file.name}: rows {start} to {stop} of {self._starts[-1]}")
        taken: list[pa.RecordBatch | Gap] = []
        if start == stop:
            return taken
        group = bisect.bisect_right(self._starts, start) - 1
        if group != self._group or start < self._position:
            self._enter(group)
        while self._position < stop:
            batch = self._next_or_gap() if skip else self._next()
            if isinstance(batch, Gap):
                begin, end = max(start, self._position), min(stop, self._position + batch.num_rows)
                taken += [Gap(end - begin)] if begin < end else []
                self._position = end
                continue
            begin = max(0, start - self._position)
            end = min(batch.num_rows, stop - self._position)
            if begin < end:
                taken.append(batch.slice(begin, end - begin))
            self._rest = batch.slice(end) if end < batch.num_rows else None
            self._position += end
        if stamp_of(self._filesystem, self._file) != self._stamp:
            raise _changed(self._file, "written to while it was read")
        return taken

    def close(self) -> None:
        """Close the file; taken batches stay valid."""
        self._batches, self._rest = None, None
        self._handle.close()

    def _enter(self, group: int) -> None:
        self._group, self._position, self._rest, self._batches = group, self._starts[group], None, None

    def _begin(self, group: int) -> Iterator[pa.RecordBatch]:
        """Look at the raw pages of a row group, compare them with the plan's, and start to decode them."""
        name = one_line(self._file.name)
        try:
            found = scan(self._handle, self._footer, self.columns, group, name)
        except OSError as error:
            if stamp_of(self._filesystem, self._file) != self._stamp:
                raise _changed(self._file, "written to while it was read") from error
            raise StoreUnavailable(f"{name}: row group {group} cannot be read: {one_line(error)}") from error
        self.digests[group] = found.digest
        if self._verify and self._file.groups and found.digest != self._file.groups[group]:
            raise _changed(self._file, f"other values in row group {group}")
        rows = min(_BATCH_ROWS, _BATCH_BYTES // max(1, found.row_bytes), _MOST_BYTES // max(1, found.most_row_bytes))
        return self._parquet.iter_batches(
            batch_size=max(1, rows), row_groups=[group], columns=self.columns, use_threads=False
        )

    def _next_or_gap(self) -> pa.RecordBatch | Gap:
        """Return the rows at the present position or, if the row group is damaged here, the number of rows to its end."""
        group = bisect.bisect_right(self._starts, self._position) - 1
        if self._position < self._broken.get(group, self._starts[-1]):
            try:
                return self._next()
            except CorruptInput:
                self._group = group
                self._broken[group] = self._position
        return Gap(self._starts[group + 1] - self._position)

    def _next(self) -> pa.RecordBatch:
        """Return the rows at the present position: at least one."""
        if self._rest is not None:
            return self._rest
        while self._position >= self._starts[self._group + 1]:
            self._enter(self._group + 1)
        group, position = self._group, self._position
        try:
            return self._decoded()
        except CorruptInput as corrupt:
            if is_near(self._filesystem) or not isinstance(corrupt.__cause__, OSError):
                raise
        # A store that did not answer looks like damage; but damage is there a second time.
        self._enter(group)
        try:
            while self._position < position:
                self._position += self._decoded().num_rows
            return self._decoded()
        finally:
            self._position = position

    def _decoded(self) -> pa.RecordBatch:
        """Decode the rows at the present position."""
        where = f"{one_line(self._file.name)}: row group {self._group}"
        try:
            self._batches = self._begin(self._group) if self._batches is None else self._batches
            batch = next(self._batches, None)
        except PromptmillError:
            self._group = -1
            raise
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            self._group = -1  # the decoder is of no use after an error
            raise CorruptInput(f"{where} cannot be decoded: {one_line(error)}") from error
        if batch is None or batch.num_rows == 0 or self._position + batch.num_rows > self._starts[self._group + 1]:
            self._group = -1
            raise CorruptInput(f"{where} does not have the number of rows that its footer says")
        return batch.select(self.columns)  # Arrow also reads `a.b` for `a`, and orders as the file does


def _changed(file: InputFile, what: str) -> InputRefused:
    return InputRefused(f"{one_line(file.name)}: changed since the plan was made: {what}")


def _is_silence(error: BaseException | None) -> bool:
    """Whether an error of a store says nothing about the file."""
    return isinstance(error, OSError) and not isinstance(error, FileNotFoundError | PermissionError)


def _open_unchanged(
    filesystem: pyarrow.fs.FileSystem, file: InputFile, columns: Sequence[str]
) -> tuple[pa.NativeFile, Footer]:
    name = one_line(file.name)
    try:
        handle = open_file(filesystem, file.path, name)
        try:
            footer = read_footer(handle, name, columns)
        except InputRefused:
            handle.close()
            raise
    except InputRefused as error:
        if not is_near(filesystem) and _is_silence(error.__cause__):
            raise StoreUnavailable(str(error)) from error
        raise InputRefused(f"{error} (it changed since the plan was made)") from error
    if (footer.size, footer.sha256) != (file.size, file.footer_sha256):
        handle.close()
        what = f"{file.size} bytes then, {footer.size} now" if footer.size != file.size else "another footer"
        raise _changed(file, what)
    return handle, footer
