"""Simple filters over an output's columns, `COLUMN OP VALUE and …`, checked against their types. Nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigurationError
from pipeline.inspect.diff.differing import Mask, plain_type
from pipeline.wording import brief, did_you_mean, listed, plain

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "!=": pc.not_equal, "<=": pc.less_equal, ">=": pc.greater_equal, "=": pc.equal, "<": pc.less, ">": pc.greater,
}  # fmt: skip
_QUOTED = r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'"""
_TERM = re.compile(
    rf"\s*(?P<column>{_QUOTED}|[^\s=!<>\"']+)\s*(?P<operator>!=|<=|>=|==|=|<|>)\s*(?P<value>{_QUOTED}|[^\s\"'=<>!]\S*)(?=\s|$)",
    re.DOTALL,
)
_AND = re.compile(r"\s+and\s+", re.IGNORECASE)
HINT = "write COLUMN=VALUE with = != < <= > or >=, joined by and; a value with spaces goes into double quotes"


@dataclass(frozen=True, slots=True)
class Term:
    """One comparison; `value` None stands for null."""

    column: str
    operator: str
    value: Any

    def rows(self, column: Any) -> Mask:
        """Return the rows [R] of a column for which it holds; a null compares with nothing, as in SQL."""
        column = column.cast(plain_type(column.type)) if pa.types.is_dictionary(column.type) else column
        column = self._comparable(column)
        if self.value is None:
            found = column.is_null() if self.operator == "=" else column.is_valid()
        else:
            found = pc.fill_null(_OPERATORS[self.operator](column, self.value), False)
        mask: Mask = np.asarray(
            found.to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else found.to_numpy()
        )
        return mask.astype(np.bool_)

    def _comparable(self, column: Any) -> Any:
        """Return a column of numbers in a type that Arrow compares with the value, whatever their sizes."""
        types, kind = pa.types, column.type
        if types.is_float16(kind):
            return column.cast(pa.float32())
        if self.value is not None and types.is_integer(kind) and not types.is_integer(self.value.type):
            return column.cast(pa.decimal128(20) if types.is_decimal(self.value.type) else pa.float64(), safe=False)
        return column


def parse(text: str, schema: pa.Schema) -> list[Term]:
    """Read a filter.

    Args:
        text: What the user wrote.
        schema: The columns there are.

    Raises:
        ConfigurationError: If it is no filter, or names a column that is not there or cannot be compared with the value.
    """
    terms, at = [], 0
    while True:
        match = _TERM.match(text, at)
        if match is None:
            raise ConfigurationError(f"where={plain(text, 160)}: cannot be read at {brief(text[at:], 40)}; {HINT}")
        terms.append(_term(match, schema))
        at = match.end()
        if not text[at:].strip():
            return terms
        joint = _AND.match(text, at)
        if joint is None:
            raise ConfigurationError(f"where={plain(text, 160)}: cannot be read at {brief(text[at:], 40)}; {HINT}")
        at = joint.end()


def _term(match: re.Match[str], schema: pa.Schema) -> Term:
    column, operator = _unquoted(match["column"]), match["operator"].replace("==", "=")
    value, is_text = _unquoted(match["value"]), match["value"][0] in "\"'"
    if column not in schema.names:
        names = [field.name for field in schema if _comparable(field.type)]
        hint = did_you_mean(column, names) or ";"
        raise ConfigurationError(f"where: {brief(column)}: no such column{hint} there are {listed(names)}")
    kind = plain_type(schema.field(column).type)
    if value.lower() == "null" and not is_text:
        if operator not in ("=", "!="):
            raise ConfigurationError(f"where: {plain(column, 80)}{operator}null: null is compared with = or != only")
        return Term(column, operator, None)
    if not _comparable(kind):
        names = [field.name for field in schema if _comparable(field.type)]
        raise ConfigurationError(
            f"where: {plain(column, 80)}: is {kind}, which is compared with null only; others are {listed(names)}"
        )
    return Term(column, operator, _typed(column, value, kind))


def _unquoted(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:-1], flags=re.DOTALL) if word[:1] in ("'", '"') else word


def _comparable(kind: pa.DataType) -> bool:
    kind, types = plain_type(kind), pa.types
    return not (types.is_nested(kind) or types.is_null(kind) or types.is_binary(kind) or types.is_large_binary(kind))


def _typed(column: str, value: str, kind: pa.DataType) -> Any:
    """Return a value as a scalar that a column of `kind` is compared with: whole numbers with numbers of any kind."""
    types = pa.types
    try:
        if types.is_boolean(kind):
            return pa.scalar({"true": True, "false": False}[value.lower()])
        if types.is_uint64(kind) and re.fullmatch(r"[+-]?\d{1,20}", value):
            return pa.scalar(Decimal(value), pa.decimal128(20))
        if types.is_integer(kind) or types.is_floating(kind):
            return pa.scalar(int(value)) if re.fullmatch(r"[+-]?\d{1,18}", value) else pa.scalar(float(value))
        return pa.scalar(value).cast(kind)
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise ConfigurationError(
            f"where: {plain(column, 80)}={plain(value, 80)}: the column is {_spelled(kind)}, and this value is not"
        ) from error


def _spelled(kind: pa.DataType) -> str:
    types = pa.types
    if types.is_boolean(kind):
        return "true or false"
    return "a number" if types.is_integer(kind) or types.is_floating(kind) else str(kind)


def holds(terms: Sequence[Term], rows: Any) -> Mask:
    """Return the rows [R] of a table for which all terms hold; a column that a part lacks is null."""
    found: Mask = np.ones(rows.num_rows, np.bool_)
    for term in terms:
        there = term.column in rows.schema.names
        found &= (
            term.rows(rows.column(term.column))
            if there
            else np.full(rows.num_rows, (term.value, term.operator) == (None, "="))
        )
    return found
