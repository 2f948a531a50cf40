"""One import, from a configuration to a Parquet file and what is to be said of it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import ConfigurationError, InputRefused, PlanRefused
from pipeline.prompts.imports.chunk import Bad, Chunk
from pipeline.prompts.imports.config import ImportConfig
from pipeline.prompts.imports.formats import format_of
from pipeline.prompts.imports.inputs import Input, find_inputs
from pipeline.prompts.imports.kinds import Misfit, Type, check_exact, leaves, merged, of_value, written
from pipeline.prompts.imports.opened import Opened
from pipeline.prompts.imports.parts import Parts
from pipeline.prompts.imports.progress import Progress
from pipeline.prompts.imports.readers import csv_rows, hub, text
from pipeline.prompts.imports.readers.blocks import blocks
from pipeline.prompts.imports.readers.json_lines import Change, LineParser
from pipeline.prompts.imports.readers.json_values import values
from pipeline.prompts.imports.readers.one_record import dumped
from pipeline.prompts.imports.readers.openai_batch import Batch
from pipeline.prompts.imports.refusals import json_columns, misfit_refused
from pipeline.store.appearing import Appearing
from pipeline.wording import brief, did_you_mean, listed, one_line, without_secrets

MOST_FIELDS = 2000
"""Columns of Parquet that a row may be, those within objects counted one by one."""
_SHOWN = 5
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import.

    Attributes:
        path: The Parquet file.
        rows: Its rows.
        groups: Its row groups.
        size: Its bytes.
        skipped: Lines that were left out.
        columns: Name → type.
        seconds: From start to end.
        notes: Further lines for the person who runs it.
    """

    path: Path
    rows: int
    groups: int
    size: int
    skipped: int
    columns: dict[str, Any]
    seconds: float
    notes: list[str] = field(default_factory=list)


def import_prompts(config: ImportConfig) -> Imported:
    """Read the configured input, and write it as one Parquet file, which appears when it is complete.

    Raises:
        InputRefused: If the input cannot be read or is not what it should be; names file and line.
        PlanRefused: If the output is there already, or cannot be written.
        StorageFull: If no space is left.
    """
    return _Import(config).run()


class _Import:
    """The state of one import."""

    def __init__(self, config: ImportConfig) -> None:
        self._config = config
        self._skipped = 0
        self._seen: set[str] = set()
        self._batch = Batch()
        self._hub = config.format == "hub" or all(map(hub.is_dataset, config.source.paths))
        if self._hub and config.json_columns:
            raise ConfigurationError(
                f"json_columns={config.json_columns}: the columns of a hub dataset have one type each already; leave it out"
            )
        self._inputs = [] if self._hub else find_inputs(config.source.paths, config.format)
        self._target = _target(config)

    def run(self) -> Imported:
        start = time.monotonic()
        folder = self._target.parent
        made = _made_folders(folder)
        parts = Parts(folder, self._config.row_group_rows)
        try:
            Appearing(folder).close()  # it can be written there, then
            with Progress(sum(file.size for file in self._inputs)) as progress:
                for chunk in self._chunks(progress):
                    self._take(chunk, parts)
                    progress.rows = parts.rows
                    if self._config.limit is not None and parts.rows >= self._config.limit:
                        break
                self._check_end(parts)
                size = self._finish(parts)
        except BaseException:
            parts.drop()
            for new in made:
                with contextlib.suppress(OSError):  # another may have put something there
                    new.rmdir()
            raise
        columns = {field.name: written(field.type) for field in parts.kind}
        notes = [told] if (told := self._batch.told()) is not None else []
        seconds = time.monotonic() - start
        return Imported(self._target, parts.rows, parts.groups, size, self._skipped, columns, seconds, notes)

    def _chunks(self, progress: Progress) -> Iterator[Chunk]:
        config = self._config
        if self._hub:
            yield from hub.rows(config.source.paths, config.source)
            return
        whole: list[Input] = []
        for file in self._inputs:
            with Opened(file, config.source.encoding) as opened:
                kind = config.format
                kind = format_of(opened, of_many=file.of_many) if kind == "auto" else kind
                if kind == "files":
                    whole.append(file)
                    continue
                for chunk in self._read(opened, kind):
                    progress.now = opened.position
                    yield chunk
            progress.done, progress.now = progress.done + file.size, 0
        if whole:
            yield from text.files(whole, config.source.encoding)

    def _read(self, opened: Opened, kind: str) -> Iterable[Chunk]:
        delimiter = self._config.source.delimiter
        if kind == "csv" or kind == "tsv":
            return csv_rows.rows(opened, delimiter or ("\t" if kind == "tsv" else None))
        if kind == "text":
            return text.lines(opened)
        found = values(opened) if kind == "json" else blocks(opened)
        return LineParser(self._change(kind), self._config.columns).parse(found)

    def _change(self, kind: str) -> Change | None:
        as_text = self._config.json_columns
        of_batch = self._batch.row if kind == "openai_batch" else None
        if not as_text:
            return of_batch

        def change(record: dict[str, Any]) -> dict[str, Any]:
            record = record if of_batch is None else of_batch(record)
            kept = {name: dumped(record[name]) for name in as_text if record.get(name) is not None}
            return {**record, **kept}

        return change

    def _take(self, chunk: Chunk, parts: Parts) -> None:
        """Add the rows of a chunk, and handle its bad lines."""
        self._tell(chunk.bad)
        table = chunk.table
        self._seen.update(table.column_names)
        if self._config.columns:
            table = table.select([name for name in self._config.columns if name in table.column_names])
        if self._config.limit is not None:
            table = table.slice(0, self._config.limit - parts.rows)
        kind: Type = pa.struct(list(table.schema))
        try:
            together = merged(parts.kind, kind)
            if leaves(together) > MOST_FIELDS:
                raise _too_many(next((place for place, _ in chunk.records()), self._names()), together)
            parts.add(table, kind)
        except Misfit as misfit:
            raise self._refused(chunk, parts.kind, misfit) from misfit

    def _refused(self, chunk: Chunk, known: Type, misfit: Misfit) -> InputRefused:
        """Return the error for a chunk whose types do not fit those before it, naming the line."""
        placed = list(chunk.records())
        kind = known
        for place, record in placed:
            try:
                kind = merged(kind, of_value(record))
            except Misfit as found:
                return misfit_refused(place, found)
        for place, record in placed:
            try:
                check_exact(record, kind)
            except Misfit as found:
                return misfit_refused(place, found)
        return misfit_refused("a row before these" if placed else "the input", misfit)

    def _tell(self, bad: Sequence[Bad]) -> None:
        """Refuse the first bad line or, with `on_bad_line=skip`, count all of them."""
        for place, what in bad:
            if self._config.on_bad_line == "fail":
                raise InputRefused(f"{place}: {what}; fix it, or skip such lines with on_bad_line=skip")
            self._skipped += 1
            if self._skipped <= _SHOWN:
                logger.warning("left out: %s: %s", place, what)
            elif self._skipped == _SHOWN + 1:
                logger.warning("left out: more of them, which are counted")

    def _check_end(self, parts: Parts) -> None:
        """Refuse an import that has no columns, or lacks some that were asked for."""
        for option in ("columns", "json_columns"):
            for name in getattr(self._config, option):
                if name not in self._seen:
                    hint = (
                        did_you_mean(name, sorted(self._seen)) or f"; there are {listed(sorted(self._seen)) or 'none'}"
                    )
                    raise InputRefused(f"{option}: there is no column {brief(name)}{hint}")
        if not len(parts.kind):
            skipped = f" ({self._skipped:,} lines were left out)" if self._skipped else ""
            raise InputRefused(f"{self._names()}: no row has a field{skipped}, so there is nothing to import")

    def _names(self) -> str:
        return ", ".join(one_line(without_secrets(path)) for path in self._config.source.paths[:3])

    def _finish(self, parts: Parts) -> int:
        try:
            return parts.finish(self._target.name)
        except Misfit as misfit:
            raise misfit_refused("a row", misfit) from misfit
        except FileExistsError as error:
            raise _there(self._target) from error


def _too_many(place: str, kind: Type) -> InputRefused:
    most = max(kind, key=lambda field: leaves(field.type))
    if leaves(most.type) == 1:
        return InputRefused(
            f"{place}: the rows have {len(kind):,} columns, and {MOST_FIELDS:,} are read at most: name those that you need "
            "with columns=[a,b]"
        )
    return InputRefused(
        f"{place}: here or soon after, {brief(most.name)} has {leaves(most.type):,} fields in all rows together, and all "
        f"columns more than {MOST_FIELDS:,}: keep it as JSON text with {json_columns(most.name)}"
    )


def _target(config: ImportConfig) -> Path:
    """Return the path of the file to write.

    Raises:
        PlanRefused: If it is there, or nothing can be there.
        ConfigurationError: If its name is not that of a Parquet file.
    """
    given = config.output.path
    try:
        path = Path(given).expanduser().absolute()
        if config.output.is_folder:
            first = config.source.paths[0].rstrip("/")
            stem = Path(first).name.partition(".")[0]
            plain = stem if stem and not any(c in stem for c in "*?[") else "prompts"
            path = path / f"{plain}.parquet"
        there = path.exists() or path.is_symlink()
    except (OSError, RuntimeError) as error:  # a folder that may not be searched, or `~name` of nobody
        raise PlanRefused(f"output.path={given}: {getattr(error, 'strerror', error)}") from error
    if path.suffix.lower() not in (".parquet", ".pq"):
        example = f"{one_line(path.stem)}.parquet"
        raise ConfigurationError(f"output.path={given}: must be a Parquet file, such as {example}, or a folder")
    if there:
        raise _there(path)
    return path


def _there(path: Path) -> PlanRefused:
    return PlanRefused(f"output.path={one_line(path)}: already exists; remove it, or give another name")


def _made_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it, and return those that were not there, the innermost first."""
    try:
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlanRefused(f"output.path: {one_line(folder)} cannot be made: {error.strerror}") from error
    return missing
