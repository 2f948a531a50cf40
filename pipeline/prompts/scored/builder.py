"""Turns rows into passages to score: the prompt itself, or a completion or endings after it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipeline.errors import ConfigurationError
from pipeline.planning.plan import InputFile
from pipeline.prompts.files.cells import cells
from pipeline.prompts.rows import RowBuilder
from pipeline.prompts.scored.config import ScoreOptions, ScoreSource
from pipeline.prompts.scored.detokenize import DETOKENIZERS
from pipeline.prompts.scored.pairs import Given, Pair, encode_pairs
from pipeline.prompts.scored.tasks import TASKS, Example, Task, example_of
from pipeline.types import ErrorCode, Passage, PromptRow, RowError, SamplingParams, Tokenizer
from pipeline.wording import brief

Size = tuple[int, int, int]
"""Bytes in UTF-8, characters and words of a text."""


class ScoredBuilder(RowBuilder):
    """Makes a `PromptRow` with its passages of every row. A row's result depends on that row only.

    With `score.concatenate` it only makes the texts; `corpus` does the rest.
    """

    def __init__(
        self, config: ScoreSource, options: ScoreOptions, sampling: SamplingParams, tokenizer: Tokenizer,
        max_model_len: int, files: Sequence[InputFile],
    ) -> None:  # fmt: skip
        """Prepare for any number of tables; see `RowBuilder`.

        Raises:
            ConfigurationError: If a template cannot be compiled, or `score.bos` is set and there is no such token.
        """
        # a prompt may have any length: long texts are read in windows, and what follows a prompt decides what is cut of it
        unbounded = replace(config, on_empty_prompt="bos") if config.paired else config
        super().__init__(unbounded, sampling, tokenizer, sys.maxsize, files)
        self._source, self._options, self._longest = config, options, max_model_len
        self._bos = tokenizer.bos_token_id
        self._detokenize = None if options.detokenize is None else DETOKENIZERS[options.detokenize]
        if options.bos and self._bos is None:
            raise ConfigurationError("score.bos=true: the tokenizer has no token for the beginning of a text")

    def _build(self, table: pa.Table, row_ids: list[str]) -> list[PromptRow]:
        if self._source.task is not None:
            return self._of_task(TASKS[self._source.task], table, row_ids)
        if self._options.concatenate:
            said = zip(row_ids, self._said(table, len(row_ids)), self._originals(table, len(row_ids)), strict=True)
            return [self._text(*parts) for parts in said]
        rows = super()._build(table, row_ids)
        if not self._source.paired:
            sizes = self._originals(table, len(rows))
            return [
                row if row.error else replace(row, passages=(self._whole(row, size),))
                for row, size in zip(rows, sizes, strict=True)
            ]
        found = [row.error or self._pairs(row, given) for row, given in zip(rows, self._given(table), strict=True)]
        return self._paired(rows, found, self._answers(table, len(rows)))

    def _of_task(self, task: Task, table: pa.Table, row_ids: list[str]) -> list[PromptRow]:
        """Return the rows of a benchmark's task."""
        columns = {name: cells(table.column(name), name, ErrorCode.BAD_TEMPLATE_ROW) for name in task.columns}
        made = [example_of(task, {name: cell[i] for name, cell in columns.items()}) for i in range(len(row_ids))]
        if task.paired:
            contexts = [None if isinstance(of, RowError) else of.pairs[0][0] for of in made]
            rows = [PromptRow(row_id, text, (), self._sampling) for row_id, text in zip(row_ids, contexts, strict=True)]
            found = [of if isinstance(of, RowError) else self._with_aside(_pairs_of(of)) for of in made]
            return self._paired(rows, found, [None if isinstance(of, RowError) else of.answer for of in made])
        texts = [of if isinstance(of, RowError) else self._undone(of) for of in made]
        sizes = [None if isinstance(of, RowError) else self._size(of.original) for of in made]
        if self._options.concatenate:
            return [self._text(*parts) for parts in zip(row_ids, texts, sizes, strict=True)]
        ids = self._tokens(texts)
        rows = [self._row(r, t, i, self._sampling, None) for r, t, i in zip(row_ids, texts, ids, strict=True)]
        return [
            row if row.error else replace(row, passages=(self._whole(row, size),))
            for row, size in zip(rows, sizes, strict=True)
        ]

    def _undone(self, example: Example) -> str | None:
        """Return the whole text of a task, its tokenisation undone as asked, or as the task does it."""
        return example.whole if self._detokenize is None else self._detokenize(example.original or "")

    def _texts(self, table: pa.Table, number: int) -> list[str | RowError | None]:
        texts = super()._texts(table, number)
        if self._detokenize is None:
            return texts
        return [self._detokenize(text) if isinstance(text, str) else text for text in texts]

    def _originals(self, table: pa.Table, number: int) -> list[Size | None]:
        """Return the sizes of what whole texts were made of; None where that is the text itself."""
        if self._detokenize is None or self._chat is not None:
            return [None] * number
        return [self._size(text) if isinstance(text, str) else None for text in super()._texts(table, number)]

    def _said(self, table: pa.Table, number: int) -> list[str | RowError | None]:
        texts = self._texts(table, number)
        if self._chat is None:
            return texts
        return [self._chat.prompt(chat) for chat in self._chat.of(table, texts)]

    def _text(self, row_id: str, text: str | RowError | None, size: Size | None = None) -> PromptRow:
        """Return a row of the one long text, with a passage that has a size and no tokens yet."""
        if text is None:
            text = RowError(ErrorCode.NULL_PROMPT, "the prompt is null")
        if isinstance(text, RowError):
            return PromptRow(row_id, None, (), self._sampling, text)
        return PromptRow(row_id, text, (), self._sampling, passages=(Passage((), 0, 0, size or self._size(text)),))

    def _whole(self, row: PromptRow, size: Size | None = None) -> Passage:
        """Return the passage of a row whose prompt is scored; `size` is that of what the prompt was made of."""
        ids = row.prompt_token_ids
        text = self._tokenizer.decode(ids, special=True) if row.prompt is None else row.prompt
        before = with_bos(ids, self._bos if self._options.bos else None)
        return Passage(
            (*before, *ids), len(before), len(before) + len(ids), size or self._size(text), None, windowed=True
        )

    def _size(self, text: str | None) -> Size:
        return size_of(text, self._options.words)

    def _paired(
        self, rows: Sequence[PromptRow], found: Sequence[Sequence[Pair] | RowError], answers: Sequence[Any]
    ) -> list[PromptRow]:  # fmt: skip
        """Add what is scored after the prompts."""
        special = self._config.add_special_tokens
        if special is None and self._chat is not None:
            special = False
        pairs = [pair for pairs in found if not isinstance(pairs, RowError) for pair in pairs]
        encoded = iter(encode_pairs(self._tokenizer, pairs, special, [] if self._bos is None else [self._bos]))
        made = []
        for row, of_row, answer in zip(rows, found, answers, strict=True):
            if isinstance(of_row, RowError):
                made.append(replace(row, prompt_token_ids=(), error=of_row))
            else:
                made.append(self._answered(self._fit(row, of_row, [next(encoded) for _ in of_row]), answer))
        return made

    def _given(self, table: pa.Table) -> list[list[Given] | RowError]:
        """Return what follows each prompt, or why there is nothing."""
        name = self._source.endings_column or self._source.completion_column or ""
        values = cells(table.column(name), name, ErrorCode.NOT_UTF8)
        return [self._texts_or_ids(value) for value in values]

    def _texts_or_ids(self, value: Any) -> list[Given] | RowError:
        what = "completion" if self._source.endings_column is None else "list of endings"
        if value is None:
            return RowError(ErrorCode.NULL_PROMPT, f"the {what} is null")
        if isinstance(value, RowError):
            return value
        if self._source.endings_column is not None:
            if not value or None in value:
                return RowError(ErrorCode.NULL_PROMPT, "an ending is null" if value else "the list of endings is empty")
            return list(value)
        if isinstance(value, str):
            return [value]
        ids = self._checked_ids(value)
        return ids if isinstance(ids, RowError) else [ids]

    def _pairs(self, row: PromptRow, given: Sequence[Given] | RowError) -> list[Pair] | RowError:
        """Return a row's pairs, then the endings alone if they are wanted."""
        if isinstance(given, RowError):
            return given
        prompt: Given = row.prompt_token_ids if row.prompt is None else row.prompt
        pairs = []
        for one in given:
            if isinstance(one, str):
                pairs.append(Pair(prompt, self._options.delimiter + one, one))
            else:  # what `generate` wrote follows the ids that it has read
                pairs.append(Pair(row.prompt_token_ids, one, self._tokenizer.decode(one)))
        return self._with_aside(pairs)

    def _with_aside(self, pairs: list[Pair]) -> list[Pair]:
        return pairs + ([replace(pair, prompt="") for pair in pairs] if self._options.unconditional else [])

    def _fit(
        self, row: PromptRow, pairs: Sequence[Pair], encoded: Sequence[tuple[list[int], list[int]]]
    ) -> PromptRow:  # fmt: skip
        """Add the passages to a row, or the reason why one cannot be scored."""
        passages = []
        for pair, (before, ids) in zip(pairs, encoded, strict=True):
            error = self._empty(pair, ids) or self._unfit(before, ids)
            if error is not None:
                return replace(row, prompt_token_ids=(), error=error, prompt_length=len(before))
            kept = before[max(0, len(before) + len(ids) - self._longest - 1) :]
            text = pair.text
            passages.append(Passage((*kept, *ids), len(kept), len(kept) + len(ids), self._size(text), text))
        count = len(passages) // 2 if self._options.unconditional else len(passages)
        first = passages[0].token_ids[: passages[0].start]
        return replace(
            row, prompt_token_ids=first, prompt_length=len(encoded[0][0]), passages=tuple(passages[:count]),
            aside=tuple(passages[count:]),
        )  # fmt: skip

    def _empty(self, pair: Pair, ids: Sequence[int]) -> RowError | None:
        """Return why there is nothing to score after a prompt, or None. Nothing would be certain: the best of all endings."""
        if ids and (pair.text or not isinstance(pair.given, str)):
            return None
        what = f"the ending {brief(pair.text)}" if self._source.choice else "the completion"
        why = "is empty" if not pair.text else "has no token of its own: together with the prompt's end it is one token"
        return RowError(ErrorCode.EMPTY_PROMPT, f"{what} {why}")

    def _unfit(self, before: Sequence[int], ids: Sequence[int]) -> RowError | None:
        """Return why tokens cannot be scored after others, or None."""
        if not before:
            message = "the prompt has no tokens, and the tokenizer no beginning-of-text token to put there"
            return RowError(ErrorCode.EMPTY_PROMPT, message)
        if isinstance(unknown := self._known([*before, *ids]), RowError):
            return unknown
        if len(ids) > self._longest:
            message = f"what follows the prompt has {len(ids)} tokens; the context has {self._longest}"
            return RowError(ErrorCode.PROMPT_TOO_LONG, message)
        total = len(before) + len(ids)
        if total > self._longest + 1 and self._source.on_long_prompt == "error":
            message = (
                f"prompt and what follows have {total} tokens, at most {self._longest + 1} fit; see "
                "source.on_long_prompt=truncate_left"
            )
            return RowError(ErrorCode.PROMPT_TOO_LONG, message)
        return None

    def _answers(self, table: pa.Table, rows: int) -> list[Any]:
        name = self._source.answer_column
        return [None] * rows if name is None else cells(table.column(name), name, ErrorCode.BAD_ANSWER)

    def _answered(self, row: PromptRow, answer: Any) -> PromptRow:
        """Add the number of the right ending."""
        if row.error is not None or answer is None:
            return row
        if isinstance(answer, RowError):
            return replace(row, prompt_token_ids=(), error=answer)
        texts = [passage.text for passage in row.passages]
        number = texts.index(answer) if answer in texts else answer
        if isinstance(number, str) and number.isascii() and number.isdigit():
            number = int(number[:9])
        if not isinstance(number, int) or not 0 <= number < len(texts):
            message = f"the answer is {brief(answer)}, neither an ending nor a number from 0 to {len(texts) - 1}"
            return replace(row, prompt_token_ids=(), error=RowError(ErrorCode.BAD_ANSWER, message))
        return replace(row, answer=number)


def _pairs_of(example: Example) -> list[Pair]:
    return [Pair(context, given, text) for (context, given), text in zip(example.pairs, example.texts, strict=True)]


def with_bos(ids: Sequence[int], bos: int | None) -> tuple[int, ...]:
    """Return the ids to put before a text: the beginning-of-text token, if it is wanted and not there already."""
    return () if bos is None or (ids and ids[0] == bos) else (bos,)


def size_of(text: str | None, words: str = "split") -> Size:
    """Return the bytes in UTF-8, the characters and the words of a text; a lone surrogate counts as its replacement.

    Args:
        text: The text.
        words: How to count them; see `ScoreOptions`.
    """
    text = text or ""
    pieces = text.split() if words == "split" else re.split(r"\s+", text)
    return len(text.encode("utf-8", "replace")), len(text), len(pieces)
