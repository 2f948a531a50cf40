"""What is known of the two outputs before their rows are read: plans, footers, and the columns that both have."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.errors import PlanRefused
from pipeline.inspect.diff.differing import plain_type
from pipeline.inspect.output import Committed, Footer, open_committed

KEYS = ("row_id", "sample_index")
_MOST_ENVIRONMENTS = 8
"""Different environments of one output that are compared with the other's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side(Committed):
    """One of the two outputs.

    Attributes:
        name: `a` or `b`.
        rows: Output rows in its parts.
        size: Their bytes before compression.
        schema: The columns that all of them have, in their plain types; None without a part.
        environments: Where they were made, each once.
    """

    name: str
    rows: int
    size: int
    schema: pa.Schema | None
    environments: tuple[Mapping[str, Any], ...]

    def read(self, columns: Sequence[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Read the rows in batches, in columns of the plain types of `schema`.

        Raises:
            PlanRefused: If a part is damaged.
        """
        for part in self.parts:
            for batch in self.output.batches(part, columns):
                yield _as(batch, schema, f"{self.name}={self.output.path}: {part}")


def open_side(name: str, path: str) -> Side:
    """Open an output and read its plan and its footers.

    Raises:
        PlanRefused: If there is none, or a part is damaged.
    """
    found = open_committed(path, key=name)
    rows = size = 0
    schema: pa.Schema | None = None
    environments: dict[str, Mapping[str, Any]] = {}
    for part in found.parts:
        footer = found.output.footer(part)
        rows, size = rows + footer.rows, size + footer.size
        schema = _both(schema, footer)
        if len(environments) < _MOST_ENVIRONMENTS:
            environments.setdefault(json.dumps(footer.environment, sort_keys=True, default=str), footer.environment)
    side = Side(
        output=found.output, plan=found.plan, without_plan=found.without_plan, parts=found.parts,
        name=name, rows=rows, size=size, schema=schema, environments=tuple(environments.values()),
    )  # fmt: skip
    if schema is not None and not set(KEYS) <= set(schema.names):
        raise PlanRefused(f"{name}={path}: its parts have no columns {' and '.join(KEYS)}, so rows cannot be matched")
    return side


def shared_schema(a: Side, b: Side) -> pa.Schema:
    """Return the columns that both have in the same plain type, in the order of `a`.

    Raises:
        PlanRefused: If the columns by which rows are matched are not among them.
    """
    if a.schema is None or b.schema is None:
        keys: list[pa.Field[Any]] = [pa.field("row_id", pa.string()), pa.field("sample_index", pa.int32())]
        return a.schema or b.schema or pa.schema(keys)
    its = dict(zip(b.schema.names, b.schema.types, strict=True))
    for name in KEYS:
        if (kind := a.schema.field(name).type) != its[name]:
            raise PlanRefused(f"{name} is {kind} in a and {its[name]} in b, so rows cannot be matched")
    return pa.schema([field for field in a.schema if its.get(field.name) == field.type])


def pairs(a: Side, b: Side) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yield each environment of `a` with each of `b`."""
    return itertools.product(a.environments, b.environments)


def _both(schema: pa.Schema | None, footer: Footer) -> pa.Schema:
    fields: list[pa.Field[Any]] = [pa.field(field.name, plain_type(field.type)) for field in footer.schema]
    own = pa.schema(fields)
    return own if schema is None else pa.schema([field for field in schema if field.name in own.names])


def _as(batch: pa.RecordBatch, schema: pa.Schema, where: str) -> pa.RecordBatch:
    columns: list[Any] = []
    for field in schema:
        column: Any = batch.column(field.name)
        try:
            columns.append(column if column.type == field.type else _unwrapped(column).cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise PlanRefused(f"{where}: column {field.name} is {column.type} here and {field.type} in the parts before; "
                              "`promptmill verify` says how to repair it") from error  # fmt: skip
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _unwrapped(column: Any) -> Any:
    return column.storage if isinstance(column, pa.ExtensionArray) else column
