"""What every reader of a format gives: a few megabytes of rows as a table, what of them was bad, and where each came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

CHUNK_BYTES = 8 << 20
"""Bytes of the input that a chunk is made of, about."""
MOST_BYTES = 64 << 20
"""Bytes of a line, a value or a file that is one prompt, at most."""
OTHER_ENCODING = "if it is of another encoding, say which: source.encoding=cp1252, for example"

Bad: TypeAlias = tuple[str, str]
"""A place, such as `x.jsonl: line 7`, and what is wrong there."""
Placed: TypeAlias = tuple[str, dict[str, Any]]
"""A place and the record that was found there."""


def nowhere() -> Iterator[Placed]:
    """No records: for formats whose columns have one type each, where no type can misfit."""
    return iter(())


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows.

    Attributes:
        table: The rows, in a schema of their own.
        bad: Lines that are left out of the table.
        records: Returns the rows once more, each with its place, to find the one whose type does not fit.
    """

    table: pa.Table
    bad: list[Bad]
    records: Callable[[], Iterable[Placed]] = nowhere
