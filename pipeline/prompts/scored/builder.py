"""Turns rows into passages to score: the prompt itself, or a completion or endings after it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pipeline.errors import ConfigurationError
from pipeline.planning.plan import InputFile
from pipeline.prompts.files.cells import cells
from pipeline.prompts.rows import RowBuilder
from pipeline.prompts.scored.config import ScoreOptions, ScoreSource
from pipeline.types import ErrorCode, Passage, PromptRow, RowError, SamplingParams, Tokenizer
from pipeline.wording import brief

_Given = str | Sequence[int]
"""What is scored after a prompt: a text, or token ids."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A prompt and what follows it, as texts or token ids; a text `given` begins with the delimiter."""

    prompt: _Given
    given: _Given
    text: str | None


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
        if options.bos and self._bos is None:
            raise ConfigurationError("score.bos=true: the tokenizer has no token for the beginning of a text")

    def _build(self, table: pa.Table, row_ids: list[str]) -> list[PromptRow]:
        if self._options.concatenate:
            return [self._text(*parts) for parts in zip(row_ids, self._said(table, len(row_ids)), strict=True)]
        rows = super()._build(table, row_ids)
        if not self._source.paired:
            return [row if row.error else replace(row, passages=(self._whole(row),)) for row in rows]
        return self._paired(table, rows)

    def _said(self, table: pa.Table, number: int) -> list[str | RowError | None]:
        texts = self._texts(table, number)
        if self._chat is None:
            return texts
        return [self._chat.prompt(chat) for chat in self._chat.of(table, texts)]

    def _text(self, row_id: str, text: str | RowError | None) -> PromptRow:
        """Return a row of the one long text, which gets its passage later."""
        if text is None:
            text = RowError(ErrorCode.NULL_PROMPT, "the prompt is null")
        if isinstance(text, RowError):
            return PromptRow(row_id, None, (), self._sampling, text)
        return PromptRow(row_id, text, (), self._sampling)

    def _whole(self, row: PromptRow) -> Passage:
        """Return the passage of a row whose prompt is scored."""
        ids = row.prompt_token_ids
        text = self._tokenizer.decode(ids, special=True) if row.prompt is None else row.prompt
        before = with_bos(ids, self._bos if self._options.bos else None)
        return Passage((*before, *ids), len(before), len(before) + len(ids), self._size(text), None, windowed=True)

    def _size(self, text: str | None) -> tuple[int, int, int]:
        return size_of(text, self._options.words)

    def _paired(self, table: pa.Table, rows: Sequence[PromptRow]) -> list[PromptRow]:
        """Add what is scored after the prompts."""
        found = [row.error or given for row, given in zip(rows, self._given(table), strict=True)]
        pairs = [
            [] if isinstance(given, RowError) else self._pairs(row, given)
            for row, given in zip(rows, found, strict=True)
        ]
        encoded = iter(self._encoded([pair for of_row in pairs for pair in of_row]))
        made = []
        answers = self._answers(table, len(rows))
        for row, given, of_row, answer in zip(rows, found, pairs, answers, strict=True):
            parts = [next(encoded) for _ in of_row]
            if isinstance(given, RowError):
                made.append(replace(row, prompt_token_ids=(), error=given))
                continue
            made.append(self._answered(self._fit(row, of_row, parts), answer))
        return made

    def _given(self, table: pa.Table) -> list[list[_Given] | RowError]:
        """Return what follows each prompt, or why there is nothing."""
        name = self._source.endings_column or self._source.completion_column or ""
        values = cells(table.column(name), name, ErrorCode.NOT_UTF8)
        return [self._texts_or_ids(value) for value in values]

    def _texts_or_ids(self, value: Any) -> list[_Given] | RowError:
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

    def _pairs(self, row: PromptRow, given: Sequence[_Given]) -> list[_Pair]:
        """Return a row's pairs, then the endings alone if they are wanted."""
        prompt: _Given = row.prompt_token_ids if row.prompt is None else row.prompt
        pairs = []
        for one in given:
            if isinstance(one, str):
                pairs.append(_Pair(prompt, self._options.delimiter + one, one))
            else:  # what `generate` wrote follows the ids that it has read
                pairs.append(_Pair(row.prompt_token_ids, one, self._tokenizer.decode(one)))
        return pairs + ([replace(pair, prompt="") for pair in pairs] if self._options.unconditional else [])

    def _encoded(self, pairs: Sequence[_Pair]) -> list[tuple[list[int], list[int]]]:
        """Return the ids of prompts, and of what follows them.

        A text is tokenised together with its prompt and alone; what is scored are the ids beyond those of the prompt. Blanks at
        the end of a prompt belong to what follows, as tokens begin with them. lm-evaluation-harness does the same.
        """
        special = self._config.add_special_tokens
        if special is None and self._chat is not None:
            special = False
        together: dict[str, list[int]] = {}
        alone: dict[str, list[int]] = {}
        for pair in pairs:
            if isinstance(pair.given, str):
                known = together if isinstance(pair.prompt, str) and pair.prompt.rstrip() else alone
                for text in _texts_of(pair):
                    known[text] = []
        for known, wanted in ((together, special), (alone, False)):
            known.update(zip(known, self._tokenizer.encode_batch(list(known), wanted), strict=True))
        found = []
        for pair in pairs:
            if not isinstance(pair.given, str):
                found.append(
                    (list(pair.prompt) if not isinstance(pair.prompt, str) else self._beginning, list(pair.given))
                )
            elif not isinstance(pair.prompt, str):
                found.append((list(pair.prompt), alone[pair.given]))
            elif pair.prompt.rstrip():
                before, whole = (together[text] for text in _texts_of(pair))
                found.append((before, whole[len(before) :]))
            else:
                found.append((self._beginning, alone[pair.prompt + pair.given]))
        return found

    @property
    def _beginning(self) -> list[int]:
        """The ids that stand for an empty prompt."""
        return [] if self._bos is None else [self._bos]

    def _fit(
        self, row: PromptRow, pairs: Sequence[_Pair], encoded: Sequence[tuple[list[int], list[int]]]
    ) -> PromptRow:  # fmt: skip
        """Add the passages to a row, or the reason why one cannot be scored."""
        passages = []
        for pair, (before, ids) in zip(pairs, encoded, strict=True):
            error = self._unfit(before, ids)
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


def with_bos(ids: Sequence[int], bos: int | None) -> tuple[int, ...]:
    """Return the ids to put before a text: the beginning-of-text token, if it is wanted and not there already."""
    return () if bos is None or (ids and ids[0] == bos) else (bos,)


def size_of(text: str | None, words: str = "split") -> tuple[int, int, int]:
    """Return the bytes in UTF-8, the characters and the words of a text; a lone surrogate counts as its replacement.

    Args:
        text: The text.
        words: How to count them; see `ScoreOptions`.
    """
    text = text or ""
    pieces = text.split() if words == "split" else re.split(r"\s+", text)
    return len(text.encode("utf-8", "replace")), len(text), len(pieces)


def _texts_of(pair: _Pair) -> list[str]:
    """Return the texts of a pair to tokenise: the prompt without the blanks at its end, and the whole."""
    prompt, given = pair.prompt, pair.given
    assert isinstance(given, str)
    if not isinstance(prompt, str):
        return [given]
    return [prompt.rstrip(), prompt + given] if prompt.rstrip() else [prompt + given]
