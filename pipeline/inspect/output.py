"""The only way to read an output: its plan, its manifest, its parts, and their rows in batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import PlanRefused
from pipeline.output.folder import PLAN
from pipeline.output.part import FOLDER, parse_part_name
from pipeline.output.record.manifest import MANIFEST, Manifest
from pipeline.planning.plan import Plan
from pipeline.store.base import Store, open_store
from pipeline.store.door import fetch, parse
from pipeline.wording import one_line

ROWS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Footer:
    """What a part's footer says.

    Attributes:
        rows: Its output rows.
        size: Bytes of its pages before compression.
        groups: Number of row groups.
        schema: Its columns.
        environment: Where it was made; empty if that was not recorded.
    """

    rows: int
    size: int
    groups: int
    schema: pa.Schema
    environment: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Output:
    """An output, finished or not.

    Attributes:
        path: Where it is, for messages.
        store: Its folder.
        files: Stored names of all files in its `data/`.
        planned: Whether there is a plan.
        finished: Whether there is a manifest.
    """

    path: str
    store: Store
    files: frozenset[str]
    planned: bool
    finished: bool

    def plan(self) -> Plan:
        """Read the plan.

        Raises:
            ValueError: If it is not a plan that this version reads.
        """
        return Plan.from_json(fetch(self.store, PLAN))

    def manifest(self) -> Manifest:
        """Read the manifest.

        Raises:
            ValueError: If it is not a manifest.
        """
        return Manifest.from_json(fetch(self.store, MANIFEST))

    def parts(self) -> list[str]:
        """Return the names of the existing parts, in the order of their rows."""
        named = [(found.plan8, found.index, name) for name in self.files if (found := parse_part_name(name))]
        return [name for *_, name in sorted(named)]

    def committed(self, plan: Plan | None) -> list[str]:
        """Return the names of the existing parts of a plan, in the order of their rows; None: of any plan."""
        names = self.parts()
        if plan is None:
            return names
        size = (plan.plan8, plan.shard_count)
        return [name for name in names if (found := parse_part_name(name)) and (found.plan8, found.count) == size]

    def footer(self, part: str) -> Footer:
        """Read a part's footer; no page is read.

        Raises:
            PlanRefused: If the part is damaged, or gone.
        """
        with self._reading(part) as parquet:
            facts = (parquet.metadata.metadata or {}).get(b"promptmill.environment", b"{}")
            try:
                environment: Mapping[str, Any] = parse(facts, Mapping)  # type: ignore[type-abstract]
            except ValueError:
                environment = {}
            groups = parquet.metadata.num_row_groups
            size = sum(parquet.metadata.row_group(i).total_byte_size for i in range(groups))
            return Footer(parquet.metadata.num_rows, size, groups, parquet.schema_arrow, environment)

    def group(self, part: str, number: int, columns: Sequence[str]) -> pa.Table:
        """Read a row group of a part, as far as it has the columns; see `batches`."""
        with self._reading(part) as parquet:
            return parquet.read_row_group(number, columns=[c for c in columns if c in parquet.schema_arrow.names])

    def batches(self, part: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Read a part, `ROWS_AT_ONCE` rows at a time.

        Args:
            part: Its stored name.
            columns: Columns to read, as far as the part has them; None: all.

        Raises:
            PlanRefused: If the part is damaged.
        """
        with self._reading(part) as parquet:
            there = None if columns is None else [c for c in columns if c in parquet.schema_arrow.names]
            yield from parquet.iter_batches(ROWS_AT_ONCE, columns=there)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Read all existing parts, one after the other; see `batches`."""
        for part in self.parts():
            yield from self.batches(part, columns)

    @contextlib.contextmanager
    def _reading(self, part: str) -> Iterator[pq.ParquetFile]:
        """Open a part, and turn what goes wrong while it is read into a refusal."""
        try:
            with self.store.open(part) as file:
                yield pq.ParquetFile(file)
        except FileNotFoundError as error:
            raise PlanRefused(
                f"{self.path.rstrip('/')}/{part} is gone: a run has set it aside meanwhile; try again"
            ) from error
        except (pa.ArrowException, OSError) as error:
            raise PlanRefused(
                f"{self.path.rstrip('/')}/{part} cannot be read: {one_line(error)}; `promptmill verify` says how to repair it"
            ) from error


def open_output(path: str, key: str = "output.path") -> Output:
    """Open an output.

    Args:
        path: Where it is.
        key: The option that names it, for messages.

    Raises:
        PlanRefused: If there is none.
    """
    store = open_store(path, key=key)
    files = frozenset(file.name for file in store.list(FOLDER))
    output = Output(path, store, files, _is_there(store, PLAN), _is_there(store, MANIFEST))
    if not (output.planned or output.finished or output.parts()):
        raise PlanRefused(f"{key}={path}: holds no output: neither {PLAN} nor {MANIFEST} nor a part")
    return output


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """An output with a part at least.

    Attributes:
        output: The output.
        plan: Its plan; None if it cannot be read.
        without_plan: Why not; empty if it can.
        parts: The committed parts of the plan, in the order of their rows; without a plan, of any.
    """

    output: Output
    plan: Plan | None
    without_plan: str
    parts: tuple[str, ...]

    @property
    def missing_parts(self) -> int:
        """Planned parts that are not committed."""
        return 0 if self.plan is None else self.plan.shard_count - len(self.parts)


def open_committed(path: str, key: str = "output.path") -> Committed:
    """Open an output, finished or not, of which a part is there; see `open_output`.

    Raises:
        PlanRefused: If there is no output, or nothing is committed yet.
    """
    output = open_output(path, key=key)
    plan, why = None, "there is none"
    if output.planned:
        try:
            plan, why = output.plan(), ""
        except (ValueError, TypeError, KeyError) as error:
            why = one_line(error)
    parts = tuple(output.committed(plan))
    if not parts:
        raise PlanRefused(f"{key}={path}: no part is committed yet; a run commits its first one soon")
    return Committed(output=output, plan=plan, without_plan=why, parts=parts)


def _is_there(store: Store, name: str) -> bool:
    try:
        return store.size(name) >= 0
    except FileNotFoundError:
        return False
