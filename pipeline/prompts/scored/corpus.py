"""Reads all rows of a plan as one long text, of which each row is a stretch."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.errors import InputRefused
from pipeline.planning.plan import InputFile
from pipeline.prompts.scored.builder import size_of, with_bos
from pipeline.prompts.scored.config import ScoreOptions
from pipeline.prompts.shard import ShardRows
from pipeline.types import ErrorCode, Passage, PromptRow, RowError, Shard, Task, Tokenizer

MAX_CHARACTERS = 100_000_000
"""Most characters of the one long text, which every replica tokenises."""


@dataclass(frozen=True, slots=True)
class _Corpus:
    """All rows of the plan with their passages, and their kept columns."""

    rows: list[PromptRow]
    kept: pa.Table


class CorpusRows:
    """Reads the rows of any task of a plan whose rows are one long text; see `ShardRows`.

    A row's passage is its own text and the separator after it; a token belongs to the row in which it begins. Rows that are
    errors, such as nulls, are no part of the text.

    Args:
        rows: Reads rows with their texts.
        whole: The whole plan as one shard.
        files: The plan's input files.
        options: How the texts are joined.
        tokenizer: The model's.
        special: Whether to add special tokens; see `Tokenizer.encode_batch`.
    """

    def __init__(
        self, rows: ShardRows, whole: Shard, files: Sequence[InputFile], options: ScoreOptions, tokenizer: Tokenizer,
        special: bool | None,
    ) -> None:  # fmt: skip
        """Read nothing yet."""
        self._rows, self._whole, self._options, self._tokenizer = rows, whole, options, tokenizer
        self._special = special
        self._starts = [0, *itertools.accumulate(f.rows for f in files)]
        self._made: _Corpus | None = None

    def read(self, task: Task) -> tuple[list[PromptRow], pa.Table]:
        """Return the rows of a task, and the kept columns of its shard; see `ShardRows.read`.

        Raises:
            InputRefused: If the text is too long.
        """
        if self._made is None:
            self._made = self._corpus()
        places = [self._starts[s.file] + row for s in task.shard.segments for row in range(s.start, s.stop)]
        rows, led = [], False  # whether a row before has the windows that reach into this one
        for number, place in enumerate(places):
            led = led and places[number - 1] == place - 1
            row = self._made.rows[place]
            if number in task.excluded and row.error is None:
                rows.append(replace(row, prompt_token_ids=(), passages=(), error=_excluded(task.excluded[number])))
                led = True
            else:
                rows.append(replace(row, passages=tuple(replace(p, leads=not led) for p in row.passages)))
                led = led or bool(row.prompt_token_ids)
        start, stop = task.trial or (0, len(rows))
        kept = self._made.kept.take(pa.array(places, pa.int64())) if self._made.kept.num_columns else self._made.kept
        return rows[start:stop], kept

    def unplanned(self) -> dict[str, str]:
        """See `ShardRows.unplanned`."""
        return self._rows.unplanned()

    def _corpus(self) -> _Corpus:
        """Read, join and tokenise everything."""
        rows, kept = self._rows.read(Task(self._whole))
        return _Corpus(stretches(rows, self._options, self._tokenizer, self._special), kept)


def stretches(
    rows: Sequence[PromptRow], options: ScoreOptions, tokenizer: Tokenizer, special: bool | None
) -> list[PromptRow]:  # fmt: skip
    """Join the texts of rows and tokenise them as one, and return the rows with their stretches of it.

    Raises:
        InputRefused: If the text is too long.
    """
    texts = [row.prompt or "" for row in rows if row.error is None]
    joined = [text + options.separator for text in texts[:-1]] + texts[-1:]
    if sum(map(len, joined)) > MAX_CHARACTERS:
        raise InputRefused(
            f"score.concatenate=true: the texts have {sum(map(len, joined)):,} characters together, at most "
            f"{MAX_CHARACTERS:,} are tokenised as one"
        )
    ids, starts = tokenizer.encode_spans("".join(joined), special)
    before = with_bos(ids, tokenizer.bos_token_id if options.bos else None)
    whole, at = (*before, *ids), len(before)
    starts = list(itertools.accumulate(starts, max))  # a special token at the end begins nowhere
    ends = [bisect.bisect_left(starts, end) for end in itertools.accumulate(map(len, joined))]
    if ends:
        ends[-1] = len(ids)
    found = iter(zip([0, *ends], ends, joined, strict=False))
    return [_placed(row, whole, at, *next(found)) if not row.error else row for row in rows]


def _placed(row: PromptRow, whole: tuple[int, ...], at: int, start: int, stop: int, text: str) -> PromptRow:
    """Return a row with its stretch of the text."""
    (own,), after = row.passages, size_of(text[len(row.prompt or "") :])
    size = own.size[0] + after[0], own.size[1] + after[1], own.size[2]  # the separator counts, and makes no word
    passage = Passage(whole, at + start, at + stop, size, None, windowed=True)
    return replace(row, prompt_token_ids=whole[at + start : at + stop], passages=(passage,), prompt_length=stop - start)


def _excluded(code: ErrorCode) -> RowError:
    return RowError(code, "a replica failed with the windows that begin in this row; see docs/explanation/dispatch.md")
