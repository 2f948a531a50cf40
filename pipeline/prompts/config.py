"""Where prompts come from and how a row becomes a prompt. Knows no Arrow, so that `--help` is quick."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass, field
from typing import Any

from pipeline.types import ChatFormat, require

LONG_PROMPT = ("error", "truncate_left")
EMPTY_PROMPT = ("error", "bos")
CORRUPT = ("error", "skip")
PROMPTS = ("prompt_column", "template", "token_ids_column", "messages_column")
"""Where prompts come from: one of these."""
_TEXTS = ("template", "id_template", "system_prompt", "chat_template")
_OF_CHATS: dict[str, Any] = {
    "system_prompt": None, "chat_template": None, "chat_template_kwargs": {}, "continue_final_message": False,
    "tools_column": None, "chat_date": None,
}  # fmt: skip
"""Options that only conversations have → their values when they are off."""
_GIVEN = frozenset(
    ("messages", "conversation", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message",
     "tokenize", "return_dict", "padding", "truncation", "max_length", "return_tensors", "return_assistant_tokens_mask",
     "tokenizer_kwargs", "sanitize_control_tokens")
)  # fmt: skip
"""Names in `chat_template_kwargs` that transformers would take for its own."""
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(kw_only=True)
class SourceConfig:
    """The input files, and which of their columns and rows are used.

    `path` is required: a Parquet file, a directory, a glob or a URI. A prompt is `prompt_column`, or `template` (Jinja over the
    row's columns; the command line reads it from `template_file`), `token_ids_column` (token ids already), or
    `messages_column`, whose conversations the model's chat template renders. With `chat`, a prompt becomes a conversation of
    one message. A conversation that begins with a system message keeps that, others begin with `system_prompt`.
    `limit` keeps the first rows only.
    `on_corrupt=skip` turns rows whose page cannot be decoded into errors, instead of ending the job.
    `add_special_tokens`: true puts the tokenizer's special tokens around every text, false never does. Null does, too, but not
    around a rendered conversation, and puts no second beginning-of-text token before a text that has one.
    `min_completion_tokens`: a prompt is too long if it leaves fewer tokens of the context for its completion, or fewer than
    `sampling.max_tokens` where that is less. Null is 1, and with `on_long_prompt=truncate_left` a quarter of the context.
    """

    path: str = field(default="???", metadata={"help": "a Parquet file, a directory, a glob or a URI"})
    prompt_column: str | None = field(
        default=None,
        metadata={"help": "the column that holds the prompts; `prompt` unless another option says where they are"},
    )
    template: str | None = field(
        default=None, metadata={"help": "a Jinja template over the row's columns, instead of a prompt column"}
    )
    template_file: str | None = field(
        default=None, metadata={"help": "a file with such a template; the line end at its end is not part of it"}
    )
    token_ids_column: str | None = field(default=None, metadata={"help": "a column of token ids, instead of texts"})
    messages_column: str | None = field(
        default=None,
        metadata={"help": "a column of conversations, instead of texts: messages with role and content, or their JSON"},
    )
    chat: bool = field(
        default=False,
        metadata={"help": "make a user message of each prompt, and render it with the model's chat template"},
    )
    system_prompt: str | None = field(
        default=None,
        metadata={"help": "in a chat, what the system says first; a Jinja template over the row's columns, too"},
    )
    chat_template: str | None = field(
        default=None, metadata={"help": "a chat template, or a file with one, instead of the model's own"}
    )
    chat_template_kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "arguments of the chat template besides the messages, such as {enable_thinking:false}"},
    )
    continue_final_message: bool = field(
        default=False, metadata={"help": "go on with the last message, instead of answering it"}
    )
    tools_column: str | None = field(
        default=None, metadata={"help": "a column with the tools that the model may call: a list of objects, or JSON"}
    )
    chat_date: str | None = field(
        default=None,
        metadata={"help": "the date for chat templates that ask for one; null: the day on which the output was begun"},
    )
    id_column: str | None = field(
        default=None,
        metadata={"help": "unique ids; null is <file>:<row>, so that another file name gives other samples"},
    )
    id_template: str | None = field(
        default=None,
        metadata={"help": "a Jinja template that makes unique ids of several columns, instead of one column"},
    )
    keep_columns: list[str] = field(
        default_factory=list, metadata={"help": "columns to copy to the output, such as [topic,url]"}
    )
    sampling_column: str | None = field(
        default=None, metadata={"help": "a struct or JSON column whose non-null fields replace `sampling` for that row"}
    )
    limit: int | None = field(default=None, metadata={"help": "take only the first rows"})
    on_long_prompt: str = field(
        default="error", metadata={"help": "error or truncate_left, when a prompt does not fit the context"}
    )
    on_empty_prompt: str = field(
        default="error", metadata={"help": "error, or bos: begin with the model's beginning-of-text token"}
    )
    min_completion_tokens: int | None = field(
        default=None,
        metadata={"help": "tokens that a prompt leaves for its completion; null: 1, or a quarter of the context"},
    )
    add_special_tokens: bool | None = field(
        default=None,
        metadata={"help": "true or false: special tokens around texts; null: as true, but no second beginning"},
    )
    on_corrupt: str = field(
        default="error",
        metadata={"help": "error, or skip: rows that cannot be decoded become errors, and the job goes on"},
    )

    @property
    def has_ids(self) -> bool:
        """Whether the input has ids of its own."""
        return self.id_column is not None or self.id_template is not None

    @property
    def is_chat(self) -> bool:
        """Whether a chat template renders the prompts."""
        return self.chat or self.messages_column is not None

    def chat_format(self) -> ChatFormat:
        """How conversations become prompts."""
        arguments = json.dumps(self.chat_template_kwargs, sort_keys=True)
        return ChatFormat(self.chat_template, arguments, self.continue_final_message, self.chat_date)

    def completion_room(self, max_tokens: int, max_model_len: int) -> int:
        """Tokens of the context that a prompt has to leave for its completion, at least 1 and at most `max_model_len` - 1."""
        unsaid = max_model_len // 4 if self.on_long_prompt == "truncate_left" else 1
        least = unsaid if self.min_completion_tokens is None else self.min_completion_tokens
        return max(1, min(least, max_tokens, max_model_len - 1))

    def __post_init__(self) -> None:
        """Check every field; if none of `PROMPTS` is given, the column `prompt` is taken."""
        require(bool(self.path.strip()), "path", self.path, "a Parquet file, a directory, a glob or a URI")
        require(
            self.template_file is None, "template_file", self.template_file, "read before: give its text as template"
        )
        given = [n for n in PROMPTS if getattr(self, n) is not None]
        if not given:
            self.prompt_column = "prompt"
        require(
            len(given) <= 1,
            " and ".join(given),
            [getattr(self, n) for n in given],
            "only one of them: they exclude each other",
        )
        require(self.limit is None or self.limit >= 0, "limit", self.limit, "null (all rows) or a whole number from 0")
        require(
            len(set(self.keep_columns)) == len(self.keep_columns),
            "keep_columns",
            self.keep_columns,
            "without repetition",
        )
        require(
            self.on_long_prompt in LONG_PROMPT,
            "on_long_prompt",
            self.on_long_prompt,
            "one of " + ", ".join(LONG_PROMPT),
        )
        require(
            self.on_empty_prompt in EMPTY_PROMPT,
            "on_empty_prompt",
            self.on_empty_prompt,
            "one of " + ", ".join(EMPTY_PROMPT),
        )
        least = self.min_completion_tokens
        require(least is None or least >= 1, "min_completion_tokens", least, "null or a whole number from 1")
        require(self.on_corrupt in CORRUPT, "on_corrupt", self.on_corrupt, "one of " + ", ".join(CORRUPT))
        require(
            self.id_column is None or self.id_template is None, "id_column and id_template", [self.id_column, self.id_template],
            "only one of them: they exclude each other",
        )  # fmt: skip
        for name in _TEXTS:
            value = getattr(self, name)
            require(value is None or _encodes(value), name, value, "text in UTF-8")
        self._check_chat()

    def _check_chat(self) -> None:
        """Check what is said of conversations."""
        require(
            not (self.chat and self.token_ids_column is not None), "chat", self.chat,
            "false with source.token_ids_column: token ids are rendered already",
        )  # fmt: skip
        for name, off in _OF_CHATS.items():
            value = getattr(self, name)
            require(
                self.is_chat or value == off, name, value, "given with source.chat=true or source.messages_column only"
            )
        taken = sorted(_GIVEN & set(self.chat_template_kwargs))
        require(
            not taken, "chat_template_kwargs", self.chat_template_kwargs, f"without {', '.join(taken)}, set elsewhere"
        )
        try:
            json.dumps(self.chat_template_kwargs, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError):
            require(False, "chat_template_kwargs", self.chat_template_kwargs, "a mapping of names to JSON values")
        day = self.chat_date
        require(day is None or is_a_day(day), "chat_date", day, "null or a date such as 2026-11-28")


def _encodes(text: str) -> bool:
    """Whether a text can be stored: bytes of a command line that are not UTF-8 become surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_a_day(text: str) -> bool:
    """Whether a text is a date in the form 2026-11-28."""
    if _DAY.fullmatch(text) is None:
        return False
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True
