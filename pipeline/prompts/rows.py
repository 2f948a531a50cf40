"""Turns input rows into `PromptRow`s: rendered text, token ids and sampling parameters, or the error of the row."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.errors import ConfigurationError, InputRefused
from pipeline.planning.plan import InputFile
from pipeline.prompts.chat import Conversation, Conversations, rendered_rows
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.cells import cells
from pipeline.prompts.files.columns import used_columns
from pipeline.prompts.files.own_ids import own_ids
from pipeline.prompts.overrides import Check, Overrides
from pipeline.prompts.template.growth import MAX_CHARACTERS
from pipeline.prompts.template.template import compile_template
from pipeline.types import ErrorCode, PromptRow, RowError, SamplingParams, Segment, Tokenizer
from pipeline.wording import brief, one_line

logger = logging.getLogger(__name__)

_NONE: Mapping[int, ErrorCode | RowError] = {}
_EXCLUDED = {
    ErrorCode.WORKER_CRASH: "twice a replica's process ended while it had nothing but this row in flight",
    ErrorCode.CORRUPT_INPUT: "the row cannot be decoded: its page in the input file is damaged; see source.on_corrupt",
    ErrorCode.TIMEOUT: "twice a replica hung while it had nothing but this row in flight; see cluster.hang_timeout",
}
_Text = str | None | RowError
_Ids = Sequence[int] | RowError


def kept_columns(table: pa.Table, config: SourceConfig) -> pa.Table:
    """Return the columns that the output keeps, with the types they have in the input."""
    return table.select(config.keep_columns)


class RowBuilder:
    """Turns each row into a `PromptRow`, which depends on that row only."""

    def __init__(
        self,
        config: SourceConfig,
        sampling: SamplingParams,
        tokenizer: Tokenizer,
        max_model_len: int,
        files: Sequence[InputFile],
        check: Check = lambda sampling: None,
    ) -> None:
        """Prepare for any number of tables.

        Args:
            config: Which columns, and what to do with prompts that are empty or too long.
            sampling: The job's parameters, which a row may override.
            tokenizer: Turns texts into token ids; not used when prompts are token ids.
            max_model_len: Tokens of prompt and completion together.
            files: The files that segments refer to by number.
            check: Raises a `ValueError` with the reason if a row's sampling parameters cannot be satisfied.

        Raises:
            ConfigurationError: If a template cannot be compiled.
        """
        self._config = config
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len
        self._files = files
        self._columns = used_columns(config)
        self._sampling, self._ids = sampling, own_ids(config)
        self._overrides = Overrides(sampling, tokenizer.vocab_size, check)
        self._warned = False
        self._template = None if config.template is None else compile_template(config.template)
        try:
            self._chat = Conversations(config, tokenizer) if config.is_chat else None
        except ValueError as error:
            raise ConfigurationError(f"source.chat_template: {error}") from error

    @property
    def columns(self) -> list[str]:
        """The columns that `build` needs and the output keeps, each once."""
        return list(self._columns)

    def build(
        self, table: pa.Table, segments: Sequence[Segment], *, only: tuple[int, int] | None = None,
        excluded: Mapping[int, ErrorCode | RowError] = _NONE,
    ) -> list[PromptRow]:  # fmt: skip
        """Return one `PromptRow` per row of the table.

        Args:
            table: `columns` of the rows of `segments`, in their order.
            segments: Where the rows come from, for ids of the kind `<file>:<row>`.
            only: Rows `start` to `stop` (exclusive) of the table; None: all.
            excluded: Rows of the table that are known to be errors, and why.

        Raises:
            InputRefused: If a row has no id; `check_ids` finds that before a job starts.
            ValueError: If table and segments differ in their number of rows.
        """
        row_ids = self._row_ids(table, segments)
        if len(row_ids) != table.num_rows:
            raise ValueError(f"{table.num_rows} rows in the table, {len(row_ids)} in the segments")
        start, stop = only or (0, table.num_rows)
        wanted = [row for row in range(start, stop) if row not in excluded]
        if len(wanted) == table.num_rows:
            return self._build(table, row_ids)
        built = dict(
            zip(
                wanted,
                self._build(table.take(pa.array(wanted, pa.int64())), [row_ids[row] for row in wanted]),
                strict=True,
            )
        )
        return [built.get(row) or self._excluded(row_ids[row], excluded[row]) for row in range(start, stop)]

    def _excluded(self, row_id: str, why: ErrorCode | RowError) -> PromptRow:
        error = why if isinstance(why, RowError) else RowError(why, _EXCLUDED[why])
        return PromptRow(row_id, None, (), self._sampling, error)

    def _build(self, table: pa.Table, row_ids: list[str]) -> list[PromptRow]:
        samplings = self._samplings(table, len(row_ids))
        chats: Sequence[Conversation | RowError | None] = [None] * len(row_ids)
        if self._config.token_ids_column is not None:
            column = self._config.token_ids_column
            texts: list[_Text] = [None] * len(row_ids)
            tokens = [self._checked_ids(v) for v in cells(table.column(column), column, ErrorCode.BAD_TOKEN_ID)]
        else:
            texts = self._texts(table, len(row_ids))
            if self._chat is not None:
                chats = self._chat.of(table, texts)
                texts = [self._chat.prompt(chat) for chat in chats]
            tokens = self._tokens(
                [t if isinstance(s, SamplingParams) else None for t, s in zip(texts, samplings, strict=True)]
            )
        rows = [self._row(*parts) for parts in zip(row_ids, texts, tokens, samplings, chats, strict=True)]
        self._tell_cut(rows)
        return rows

    def _row_ids(self, table: pa.Table, segments: Sequence[Segment]) -> list[str]:
        if self._ids is None:
            return [f"{self._files[s.file].name}:{row}" for s in segments for row in range(s.start, s.stop)]
        values = self._ids.of(table)
        if any(value is None or isinstance(value, RowError) for value in values):
            raise InputRefused(f"{self._ids.option}: a row has an id that is null, not UTF-8, or cannot be made")
        return [str(value) for value in values]

    def _samplings(self, table: pa.Table, rows: int) -> list[SamplingParams | RowError]:
        name = self._config.sampling_column
        if name is None:
            return [self._sampling] * rows
        return [self._overrides.apply(v) for v in cells(table.column(name), name, ErrorCode.BAD_SAMPLING)]

    def _texts(self, table: pa.Table, number: int) -> list[_Text]:
        """Return the prompts, or the user's messages: a text, None, or the reason why there is none."""
        name = self._config.prompt_column
        if name is not None:
            return cells(table.column(name), name, ErrorCode.NOT_UTF8)
        return rendered_rows(self._template, table, number)

    def _tokens(self, texts: Sequence[_Text]) -> list[_Ids]:
        """Tokenise all that is text in one call."""
        texts = [self._bounded(text) for text in texts]
        special = self._config.add_special_tokens
        if special is None and self._chat is not None:
            special = False  # a chat template has written those that the model expects
        encoded: Iterator[list[int]] = iter(
            self._tokenizer.encode_batch([t for t in texts if isinstance(t, str) and t], special)
        )
        tokens: list[_Ids] = []
        for text in texts:
            if text is None:
                tokens.append(RowError(ErrorCode.NULL_PROMPT, "the prompt is null"))
            elif isinstance(text, RowError):
                tokens.append(text)
            else:
                tokens.append(self._known(next(encoded)) if text else [])
        return tokens

    def _bounded(self, text: _Text) -> _Text:
        """Bound the text for the tokenizer: a file of kilobytes may hold a text of gigabytes, which would take hours."""
        if not isinstance(text, str) or len(text) <= MAX_CHARACTERS:
            return text
        if self._config.on_long_prompt == "truncate_left":
            return text[-MAX_CHARACTERS:]
        message = f"the prompt has {len(text):,} characters, at most {MAX_CHARACTERS:,} are tokenised"
        return RowError(ErrorCode.PROMPT_TOO_LONG, message)

    def _known(self, ids: list[int]) -> _Ids:
        """Return the ids, or an error if the model lacks one: a tokenizer may have more tokens than its model."""
        size = self._tokenizer.vocab_size
        for token in ids:
            if token is None or token >= size:
                name = "" if token is None else f" {brief(self._tokenizer.token(token))}"
                message = f"the tokenizer's token{name} has id {token}; the model has ids 0 to {size - 1}"
                return RowError(ErrorCode.BAD_TOKEN_ID, one_line(message))
        return ids

    def _checked_ids(self, ids: Any) -> _Ids:
        if ids is None:
            return RowError(ErrorCode.NULL_PROMPT, "the list of token ids is null")
        if isinstance(ids, RowError):
            return ids
        vocab_size = self._tokenizer.vocab_size
        for place, token in enumerate(ids):
            if token is None or not 0 <= token < vocab_size:
                what = "null" if token is None else str(token)
                message = f"token id {place} is {what}; must be from 0 to {vocab_size - 1}"
                return RowError(ErrorCode.BAD_TOKEN_ID, message)
        return list(ids)

    def _row(
        self, row_id: str, text: _Text, tokens: _Ids, sampling: SamplingParams | RowError,
        chat: Conversation | RowError | None,
    ) -> PromptRow:  # fmt: skip
        prompt = text if isinstance(text, str) else None
        if isinstance(sampling, RowError):
            return PromptRow(row_id, prompt, (), self._sampling, sampling)
        length = 0 if isinstance(tokens, RowError) else len(tokens)
        if not isinstance(tokens, RowError):
            tokens = self._fitted(tokens, sampling)
        if isinstance(tokens, RowError):
            return PromptRow(row_id, prompt, (), sampling, tokens, length)
        messages = chat.messages if isinstance(chat, Conversation) else None
        continues = self._config.continue_final_message
        return PromptRow(row_id, prompt, tuple(tokens), sampling, None, length, messages, continues)

    def _fitted(self, tokens: Sequence[int], sampling: SamplingParams) -> _Ids:
        """Apply `on_empty_prompt`, `on_long_prompt` and `min_completion_tokens`."""
        bos = self._tokenizer.bos_token_id
        if not tokens:
            if self._config.on_empty_prompt != "bos":
                return RowError(ErrorCode.EMPTY_PROMPT, "the prompt has no tokens; see source.on_empty_prompt=bos")
            if bos is None:
                message = "the prompt has no tokens, and the tokenizer no beginning-of-text token to put there"
                return RowError(ErrorCode.EMPTY_PROMPT, message)
            return self._known([bos])
        most = self._max_model_len - self._config.completion_room(sampling.max_tokens, self._max_model_len)
        if len(tokens) <= most:
            return tokens
        if self._config.on_long_prompt == "truncate_left":
            keep_first = tokens[0] == bos and most > 1  # models expect to begin with it
            return [*tokens[:keep_first], *tokens[len(tokens) - most + keep_first :]]
        message = f"the prompt has {len(tokens)} tokens, at most {most} fit; see source.on_long_prompt=truncate_left"
        return RowError(ErrorCode.PROMPT_TOO_LONG, one_line(message))

    def _tell_cut(self, rows: Sequence[PromptRow]) -> None:
        """Say once how much `truncate_left` cuts."""
        cut = [row for row in rows if row.cut]
        if cut and not self._warned:
            self._warned = True
            first = cut[0]
            logger.warning(
                "source.on_long_prompt=truncate_left: %d of %d prompts were too long and lost their beginning, such as row %s: "
                "%d of %d tokens are kept; prompt_tokens tells how many (said once)",
                len(cut), len(rows), brief(first.row_id), len(first.prompt_token_ids), first.prompt_length,
            )  # fmt: skip
