"""Rows that cannot be written: found by trying halves, and written as errors, so that all others are in the part."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import pyarrow as pa

from pipeline.errors import PromptmillError
from pipeline.types import Completion, ErrorCode, PromptRow, RowError
from pipeline.wording import named

MOST_GUILTY = 16
"""Rows that may all be errors; if more are, and no other row is there, something else is wrong."""
T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Content:
    """What a part is made of: input rows, their kept columns, and (position, sample) → completion."""

    rows: Sequence[PromptRow]
    completions: Mapping[tuple[int, int], Completion]
    kept: pa.Table

    def part(self, start: int, stop: int) -> Content:
        """Rows `start` to `stop` alone."""
        done = {(at - start, sample): c for (at, sample), c in self.completions.items() if start <= at < stop}
        return Content(self.rows[start:stop], done, self.kept.slice(start, stop - start))


def written(content: Content, write: Callable[[Content], T]) -> T:
    """Return what `write` makes of the content; a row with which it ends in an exception is an error row.

    An error row keeps its prompt and its kept values, unless it is one of them that cannot be written.

    Raises:
        PromptmillError, MemoryError: If `write` raises one.
        Exception: What `write` raises, if it does so with no rows at all, or with each of many.
    """
    try:
        return write(content)
    except (PromptmillError, MemoryError):
        raise
    except Exception as error:
        _log.debug("an exception while a part is written", exc_info=error)
        write(content.part(0, 0))
        guilty = dict(_guilty(content, write, 0, len(content.rows)))
        if len(guilty) == len(content.rows) > MOST_GUILTY:
            raise
        for row in guilty.values():
            told = row.rows[0].error.message if row.rows[0].error else ""
            _log.warning("row %s: it becomes an error: %s", row.rows[0].row_id, told)
        return write(_with(content, guilty))


def _guilty(
    content: Content, write: Callable[[Content], object], start: int, stop: int
) -> Iterator[tuple[int, Content]]:
    """Yield the position of each row that cannot be written, and what is written in its place."""
    try:
        write(content.part(start, stop))
    except (PromptmillError, MemoryError):
        raise
    except Exception as error:
        if stop - start == 1:
            yield start, _blamed(content.part(start, stop), write, error)
            return
        middle = (start + stop) // 2
        yield from _guilty(content, write, start, middle)
        yield from _guilty(content, write, middle, stop)


def _blamed(row: Content, write: Callable[[Content], object], error: Exception) -> Content:
    """The row as an error, with as much of it as can be written."""
    told = RowError(ErrorCode.WORKER_CRASH, f"writing this row raised {named(error)}")
    plain = replace(row.rows[0], prompt_token_ids=(), error=told)
    bare = pa.table([pa.nulls(1, field.type) for field in row.kept.schema], schema=row.kept.schema)
    for made in (Content([plain], {}, row.kept), Content([plain], {}, bare)):
        try:
            write(made)
        except Exception:  # it is the kept values, or the prompt
            continue
        return made
    return Content([replace(plain, prompt=None)], {}, bare)


def _with(content: Content, others: Mapping[int, Content]) -> Content:
    """The content with other rows in the place of some."""
    rows, done, kept, at = list(content.rows), dict(content.completions), list[pa.Table](), 0
    for place, row in others.items():
        rows[place] = row.rows[0]
        done = {key: completion for key, completion in done.items() if key[0] != place}
        kept += [content.kept.slice(at, place - at), row.kept]
        at = place + 1
    if not content.kept.num_columns:
        return Content(rows, done, content.kept)
    return Content(rows, done, pa.concat_tables([*kept, content.kept.slice(at)]))
