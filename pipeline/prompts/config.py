"""Where prompts come from and how a row becomes a prompt. Knows no Arrow, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.types import require

LONG_PROMPT = ("error", "truncate_left")
EMPTY_PROMPT = ("error", "bos")
CORRUPT = ("error", "skip")


@dataclass(kw_only=True)
class SourceConfig:
    """The input files and what of them is used.

    `path` is required: a Parquet file, a directory, a glob or a URI. A prompt is `prompt_column`, or `template` (Jinja over the
    row's columns; the command line reads it from `template_file`), or `token_ids_column` (token ids already). `limit` keeps the
    first rows only.
    `on_corrupt=skip` makes errors of rows whose page cannot be decoded, instead of ending the job.
    `add_special_tokens`: true puts the tokenizer's special tokens around every text, false never does; null does, but gives a
    text that has the beginning-of-text token already no second one. `min_completion_tokens` is what a prompt has to leave of
    the context for its completion, or `sampling.max_tokens` where that is less; one that leaves less is too long. Null is 1,
    and with `on_long_prompt=truncate_left` a quarter of the context.
    """

    path: str = field(default="???", metadata={"help": "a Parquet file, a directory, a glob or a URI"})
    prompt_column: str | None = field(
        default=None, metadata={"help": "the column that holds the prompts; `prompt` when none of these three is given"}
    )
    template: str | None = field(
        default=None, metadata={"help": "a Jinja template over the row's columns, instead of a prompt column"}
    )
    template_file: str | None = field(
        default=None, metadata={"help": "a file with such a template; the line end at its end is not part of it"}
    )
    token_ids_column: str | None = field(default=None, metadata={"help": "a column of token ids, instead of texts"})
    id_column: str | None = field(
        default=None,
        metadata={"help": "unique ids; null is <file>:<row>, so that another file name gives other samples"},
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

    def completion_room(self, max_tokens: int, max_model_len: int) -> int:
        """Tokens of the context that a prompt has to leave for its completion, at least 1 and at most `max_model_len` - 1."""
        unsaid = max_model_len // 4 if self.on_long_prompt == "truncate_left" else 1
        least = unsaid if self.min_completion_tokens is None else self.min_completion_tokens
        return max(1, min(least, max_tokens, max_model_len - 1))

    def __post_init__(self) -> None:
        """Check every field; without any of the three prompt sources, the column `prompt` is taken."""
        require(bool(self.path.strip()), "path", self.path, "a Parquet file, a directory, a glob or a URI")
        require(
            self.template_file is None, "template_file", self.template_file, "read before: give its text as template"
        )
        given = [n for n in ("prompt_column", "template", "token_ids_column") if getattr(self, n) is not None]
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
