"""Checks one part completely: its bytes, its footer, its pages, its rows."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.inspect.batch import Batch, Mask
from pipeline.inspect.output import ROWS_AT_ONCE, Output
from pipeline.inspect.verify.findings import Finding, RowFindings
from pipeline.inspect.verify.numbers import NumberCheck
from pipeline.inspect.verify.order import RowOrder
from pipeline.inspect.verify.wanted import Wanted
from pipeline.output.part import PartInfo, part_name, read_report, sha256_of
from pipeline.output.record.counts import Counts, lengths_of
from pipeline.output.scores.figures import Sums
from pipeline.types import FinishReason
from pipeline.wording import brief, listed, one_line

_UNREADABLE = (pa.ArrowException, OSError, ValueError, MemoryError)
"""Exceptions that damaged bytes may raise: wrong checksums, absurd sizes, invalid text."""


@dataclass(slots=True)
class PartSeen:
    """The result of checking a part.

    Attributes:
        findings: Its defects.
        counts: Its counts; None if it could not be read to its end.
        environment: The environment that its bits depend on, from its footer.
        kept: The columns copied from the input; None if unknown.
        hashes: Hashes of the ids, if the plan does not determine these.
    """

    findings: list[Finding]
    counts: Counts | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    kept: pa.Schema | None = None
    hashes: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


def check_part(
    output: Output, wanted: Wanted, index: int, *, sha256: str | None, kept: pa.Schema | None, tick: Callable[[], None]
) -> PartSeen:
    """Check the part of a shard; at most `ROWS_AT_ONCE` rows are held at a time.

    Args:
        output: The output.
        wanted: What the plan says.
        index: The shard.
        sha256: The manifest's digest; None: it has none.
        kept: The columns copied from the input, as in an earlier part; None: there was no earlier part.
        tick: Called from time to time.
    """
    name = part_name(wanted.plan.plan8, index, wanted.plan.shard_count)
    seen = PartSeen([])
    try:
        if sha256 is not None and sha256_of(output.store, name) != sha256:
            seen.findings.append(Finding(name, "its SHA-256 is not the manifest's"))
        info = read_report(output.store, name)
    except FileNotFoundError:
        seen.findings.append(Finding(name, "no longer exists"))
    except _UNREADABLE as error:
        seen.findings.append(Finding(name, _reason(error, name)))
    else:
        seen.environment = info.environment
        seen.findings += _footer_findings(name, info, wanted, index)
        _check_rows(output, name, wanted, index, info, kept, tick, seen)
    return seen


def _footer_findings(name: str, info: PartInfo, wanted: Wanted, index: int) -> Iterator[Finding]:
    if info.plan_id != wanted.plan.plan_id:
        yield Finding(name, f"its footer says plan {info.plan_id[:8]}, not {wanted.plan.plan8}")
    if info.shard != index:
        yield Finding(name, f"its footer says that it is part {info.shard}")


def _check_rows(
    output: Output, name: str, wanted: Wanted, index: int, info: PartInfo, kept: pa.Schema | None,
    tick: Callable[[], None], seen: PartSeen,
) -> None:  # fmt: skip
    """Read and check all pages."""
    with output.store.open(name) as file:
        try:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            schema = parquet.schema_arrow
        except _UNREADABLE as error:
            seen.findings.append(Finding(name, f"its footer cannot be read: {_reason(error, name)}"))
            return
        if fault := wanted.fault_of(schema, kept):
            seen.findings.append(Finding(name, fault))
            return
        reader = _RowReading(name, wanted, index, info)
        reader.read(parquet, tick)
    seen.kept, seen.hashes = wanted.kept(schema), reader.order.hashes
    seen.findings += reader.findings.all()
    if reader.readable:
        seen.counts = reader.counts
        seen.findings += reader.end(info.counts)


class _RowReading:
    """Reads the rows of one part in order."""

    def __init__(self, name: str, wanted: Wanted, index: int, info: PartInfo) -> None:
        self._name, self._planned = name, wanted.plan.shard(index).rows
        self.findings, self.readable = RowFindings(name), True
        self.order = RowOrder(wanted.recipe.samples, wanted.row_ids(index))
        size = info.environment.get("vocab_size")
        self._numbers = NumberCheck(wanted, size if isinstance(size, int) and size > 0 else None)
        self._rows = self._prompt_tokens = self._completion_tokens = 0
        self._errors: collections.Counter[str] = collections.Counter()
        self._reasons: collections.Counter[str] = collections.Counter()
        self._lengths: dict[str, int] = {}
        self._sums = Sums()
        self._told = info.counts

    @property
    def counts(self) -> Counts:
        errors = dict(sorted(self._errors.items()))
        reasons = dict(sorted(self._reasons.items()))
        told = self._told  # what the rows do not show is taken from the footer
        return Counts(
            self.order.input_rows, self._rows, self._prompt_tokens, self._completion_tokens, errors,
            reasons if told.finish_reasons else {}, self._lengths if told.finish_reasons else {}, told.clamped_rows,
            told.cut_off, self._sums.totals(),
        )  # fmt: skip

    def read(self, parquet: pq.ParquetFile, tick: Callable[[], None]) -> None:
        """Check all rows, up to a page that cannot be read."""
        self._sums.add(parquet.schema_arrow.empty_table())  # a part without rows has sums, too
        for group in range(parquet.metadata.num_row_groups):
            for rows in self._decoded(parquet, group):
                self._check(Batch(rows), group)
                tick()
            if not self.readable:
                return

    def _decoded(self, parquet: pq.ParquetFile, group: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a row group; exceptions in here are the file's fault, not the caller's."""
        try:
            for rows in parquet.iter_batches(ROWS_AT_ONCE, row_groups=[group]):
                rows.validate(full=True)
                yield rows
        except _UNREADABLE as error:
            self.readable = False
            columns = _unreadable_columns(parquet, group)
            where = f"row group {group}, column{'s' if len(columns) > 1 else ''} {listed(columns) or 'unknown'}"
            self.findings.add("unreadable", where, f"cannot be read: {_reason(error, self._name)}")

    def end(self, told: Counts) -> Iterator[Finding]:
        """Yield the findings after the last row; `told` has the footer's counts."""
        if missing := self.order.end():
            yield Finding(self._name, missing)
        if self.order.input_rows != self._planned:
            yield Finding(self._name, f"holds {self.order.input_rows} input rows; {self._planned} were planned")
        for name, count in asdict(self.counts).items():
            if getattr(told, name) != count:
                yield Finding(self._name, f"its footer says {name} {getattr(told, name)}, its rows have {count}")

    def _check(self, batch: Batch, group: int) -> None:
        rows: Any = batch.rows
        row_ids, samples = rows.column("row_id").to_pylist(), rows.column("sample_index").to_pylist()

        def place(i: int) -> str:
            return f"row group {group}, row {self._rows + i} (row_id {brief(row_ids[i])}, sample {samples[i]})"

        def found(kind: str, wrong: Mask, describe: Callable[[int], str]) -> None:
            count = int(np.count_nonzero(wrong))
            if count:
                first = int(np.argmax(wrong))
                self.findings.add(kind, place(first), describe(first), count)

        for at, wrong in self.order.take(row_ids, samples):
            self.findings.add("order", place(at), wrong)
        self._numbers.check(batch, found)
        first_samples = batch.values("sample_index", -1) == 0
        self._prompt_tokens += int(batch.values("prompt_tokens")[first_samples].sum())
        self._sums.add(batch.rows)
        self._errors.update(code for code in rows.column("error_code").to_pylist() if code is not None)
        if batch.has("finish_reason"):
            self._count_generated(batch)
        self._rows += rows.num_rows

    def _count_generated(self, batch: Batch) -> None:
        rows: Any = batch.rows
        self._completion_tokens += int(batch.values("completion_tokens").sum())
        reasons = rows.column("finish_reason").to_pylist()
        self._reasons.update(str(reason) for reason in reasons)
        generated = batch.values("completion_tokens").tolist()
        made = [n for n, reason in zip(generated, reasons, strict=True) if reason != FinishReason.ERROR]
        self._lengths = lengths_of([*self._lengths.values(), *made])


def _unreadable_columns(parquet: pq.ParquetFile, group: int) -> list[str]:
    """Return the columns of a row group that cannot be decoded even alone."""
    found = []
    for column in parquet.schema_arrow.names:
        try:
            parquet.read_row_group(group, columns=[column]).validate(full=True)
        except _UNREADABLE:
            found.append(column)
    return found


def _reason(error: BaseException, name: str) -> str:
    return one_line(str(error).removeprefix(f"{name}: ") or type(error).__name__)
