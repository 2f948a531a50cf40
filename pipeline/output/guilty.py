"""Finds rows that cannot be written, by trying halves, and writes them as errors, so that the part has all others."""

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
"""Most rows that may be errors if no row can be written; with more, something else is wrong."""
T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Content:
    """The content of a part: input rows, their kept columns, and (position, sample) → completion."""

    rows: Sequence[PromptRow]
    completions: Mapping[tuple[int, int], Completion]
    kept: pa.Table

    def part(self, start: int, stop: int) -> Content:
        """Return rows `start` to `stop` (exclusive) alone."""
        done = {(at - start, sample): c for (at, sample), c in self.completions.items() if start <= at < stop}
        return Content(self.rows[start:stop], done, self.kept.slice(start, stop - start))


def written(content: Content, write: Callable[[Content], T]) -> T:
    """Return `write(content)`, with the rows that make it raise turned into error rows.

    An error row keeps its prompt and its kept values, unless one of these cannot be written.

    Raises:
        PromptmillError, MemoryError: If `write` raises one.
        Exception: What `write` raises, if it raises without any rows, or for each of many rows.
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
            _log.warning("row %s becomes an error row: %s", row.rows[0].row_id, told)
        return write(_with(content, guilty))


def _guilty(
    content: Content, write: Callable[[Content], object], start: int, stop: int
) -> Iterator[tuple[int, Content]]:
    """Yield the position of each row that cannot be written, with its replacement."""
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
    """Return the row as an error, with as much of it as can be written."""
    told = RowError(ErrorCode.WORKER_CRASH, f"writing this row raised {named(error)}")
    plain = replace(row.rows[0], prompt_token_ids=(), error=told)
    bare = pa.table([pa.nulls(1, field.type) for field in row.kept.schema], schema=row.kept.schema)
    for made in (Content([plain], {}, row.kept), Content([plain], {}, bare)):
        try:
            write(made)
        except Exception:  # the kept values, or the prompt, are to blame
            continue
        return made
    return Content([replace(plain, prompt=None)], {}, bare)


def _with(content: Content, others: Mapping[int, Content]) -> Content:
    """Return the content with some rows replaced."""
    rows, done, kept, at = list(content.rows), dict(content.completions), list[pa.Table](), 0
    for place, row in others.items():
        rows[place] = row.rows[0]
        done = {key: completion for key, completion in done.items() if key[0] != place}
        kept += [content.kept.slice(at, place - at), row.kept]
        at = place + 1
    if not content.kept.num_columns:
        return Content(rows, done, content.kept)
    return Content(rows, done, pa.concat_tables([*kept, content.kept.slice(at)]))
