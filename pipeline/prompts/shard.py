"""Reads the rows of a task: prompts as token ids, errors, and the columns that the output keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from pipeline.errors import CorruptInput, PromptmillError, WorkerFailed
from pipeline.planning.plan import InputFile
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.cells import not_text
from pipeline.prompts.files.locate import filesystem_for
from pipeline.prompts.files.own_ids import own_ids
from pipeline.prompts.files.reader import RowReader
from pipeline.prompts.rows import RowBuilder, kept_columns
from pipeline.types import ErrorCode, PromptRow, RowError, Segment, Task
from pipeline.wording import one_line

MOST_GUILTY = 16
"""Most rows of a task that may all raise: if more do, and no row can be prepared, the rows are not to blame."""


class ShardRows:
    """Reads the rows of a plan's tasks.

    Args:
        config: Which columns, and what to do with rows that cannot be decoded.
        builder: Turns rows into prompts.
        files: The plan's input files.
        schema: The source's schema.
    """

    def __init__(
        self, config: SourceConfig, builder: RowBuilder, files: Sequence[InputFile], schema: pa.Schema
    ) -> None:
        """Open nothing yet."""
        self._config, self._builder, self._files = config, builder, files
        filesystem, _ = filesystem_for(config.path)
        self._reader = RowReader(filesystem, files, builder.columns, schema, verify=True)
        ids_of = own_ids(config)
        self._id_columns = [] if ids_of is None else list(ids_of.columns)
        self._ids = RowReader(filesystem, files, self._id_columns, schema)

    def read(self, task: Task) -> tuple[list[PromptRow], pa.Table]:
        """Return the rows of a task, and the kept columns of its shard.

        Raises:
            CorruptInput: If a page cannot be decoded, unless `source.on_corrupt=skip`.
            InputRefused: If a file is not the one that was planned.
        """
        segments = task.shard.segments
        table, broken = self._decoded(segments)
        only = task.trial or (0, table.num_rows)
        rows = self._built(table, segments, only, {**broken, **task.excluded})
        kept = kept_columns(table, self._config)
        return self._with_kept_errors(rows, kept, first=only[0]), kept

    def _with_kept_errors(self, rows: list[PromptRow], kept: pa.Table, *, first: int) -> list[PromptRow]:
        """Turn rows whose kept values cannot be written into errors; `rows` begin at row `first` of `kept`."""
        for name in kept.column_names:
            for place, error in not_text(kept.column(name), name).items():
                if 0 <= place - first < len(rows) and rows[place - first].error is None:
                    rows[place - first] = replace(rows[place - first], prompt_token_ids=(), error=error)
        return rows

    def unplanned(self) -> dict[str, str]:
        """Return the digests that the plan lacks, of pages read since the last call.

        Returns:
            "(number of the file)-(number of its row group)" → digest, with which later readers of these pages must agree.
        """
        read = self._reader.digests()
        return {f"{file}-{group}": digest for (file, group), digest in read.items() if not self._files[file].groups}

    def _built(
        self, table: pa.Table, segments: Sequence[Segment], only: tuple[int, int], excluded: dict[int, ErrorCode | RowError]
    ) -> list[PromptRow]:  # fmt: skip
        """Build rows; a row that raises an unexpected exception, in a tokenizer for example, becomes an error."""
        try:
            return self._builder.build(table, segments, only=only, excluded=excluded)
        except PromptmillError:
            raise
        except Exception as error:
            guilty = self._guilty(table, segments, only, excluded)
            wanted = only[1] - only[0] - sum(only[0] <= row < only[1] for row in excluded)
            if len(guilty) == wanted and len(guilty) > MOST_GUILTY:
                raise WorkerFailed(f"no row of {wanted} can be prepared: {_told(error)}") from error
            return self._builder.build(table, segments, only=only, excluded={**excluded, **guilty})

    def _guilty(
        self, table: pa.Table, segments: Sequence[Segment], only: tuple[int, int], excluded: Mapping[int, ErrorCode | RowError]
    ) -> dict[int, RowError]:  # fmt: skip
        """Try halves of the rows until the rows are found that raise an exception alone."""
        try:
            self._builder.build(table, segments, only=only, excluded=excluded)
        except PromptmillError:
            raise
        except Exception as error:
            start, stop = only
            if stop - start == 1:
                message = f"preparing this row raised {_told(error)}"
                return {start: RowError(ErrorCode.WORKER_CRASH, message)}
            middle = (start + stop) // 2
            return {
                **self._guilty(table, segments, (start, middle), excluded),
                **self._guilty(table, segments, (middle, stop), excluded),
            }
        return {}

    def _decoded(self, segments: Sequence[Segment]) -> tuple[pa.Table, Mapping[int, ErrorCode]]:
        if self._config.on_corrupt != "skip":
            try:
                return self._reader.read(segments), {}
            except CorruptInput as error:
                instead = "with source.on_corrupt=skip the same command goes on, and the damaged rows become errors"
                raise CorruptInput(f"{error}; {instead}") from error
        table, gaps = self._reader.read_with_gaps(segments)
        if gaps and self._id_columns:  # each row has its id; these columns can be read by themselves
            ids = self._ids.read(segments)
            for name in self._id_columns:
                place = table.schema.get_field_index(name)
                table = table.set_column(place, table.schema.field(place), ids.column(name))
        return table, dict.fromkeys(gaps, ErrorCode.CORRUPT_INPUT)


def _told(error: BaseException) -> str:
    return one_line(f"{type(error).__name__}: {error}")
