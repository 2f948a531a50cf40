"""The only way to read an output: its plan, its manifest, its parts, and their rows in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import PlanRefused
from pipeline.output.folder import PLAN
from pipeline.output.manifest import MANIFEST, Manifest
from pipeline.output.part import FOLDER, parse_part_name
from pipeline.planning.plan import Plan
from pipeline.store.base import Store, open_store
from pipeline.store.door import fetch
from pipeline.wording import one_line

ROWS_AT_ONCE = 1000


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

    def batches(self, part: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Read a part, `ROWS_AT_ONCE` rows at a time.

        Args:
            part: Its stored name.
            columns: Columns to read, as far as the part has them; None: all.

        Raises:
            PlanRefused: If the part is damaged.
        """
        with self.store.open(part) as file:
            try:
                parquet = pq.ParquetFile(file)
                there = None if columns is None else [c for c in columns if c in parquet.schema_arrow.names]
                yield from parquet.iter_batches(ROWS_AT_ONCE, columns=there)
            except (pa.ArrowException, OSError) as error:
                raise PlanRefused(
                    f"{part} cannot be read: {one_line(error)}; `promptmill verify` says what mends it"
                ) from error

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Read all existing parts, one after the other; see `batches`."""
        for part in self.parts():
            yield from self.batches(part, columns)


def open_output(path: str) -> Output:
    """Open an output.

    Raises:
        PlanRefused: If there is none.
    """
    store = open_store(path)
    files = frozenset(file.name for file in store.list(FOLDER))
    output = Output(path, store, files, _is_there(store, PLAN), _is_there(store, MANIFEST))
    if not (output.planned or output.finished or files):
        raise PlanRefused(f"output.path={path}: holds no output: neither {PLAN} nor {MANIFEST} nor a part")
    return output


def _is_there(store: Store, name: str) -> bool:
    try:
        return store.size(name) >= 0
    except FileNotFoundError:
        return False
