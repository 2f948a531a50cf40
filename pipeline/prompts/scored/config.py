"""The options of what is scored. Imports no Arrow, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pipeline.prompts.config import PROMPTS, SourceConfig
from pipeline.prompts.scored.detokenize import DETOKENIZERS
from pipeline.prompts.scored.tasks import TASKS
from pipeline.types import ChatFormat, require

WINDOWS = ("sliding", "rolling")
WORDS = ("split", "harness")
HIDDEN = {"omegaconf_ignore": True}
"""Metadata of a field that a job does not offer as an option."""


@dataclass(kw_only=True)
class ScoreSource(SourceConfig):
    """The input files, and what of them is scored.

    The prompt, of whatever source, is the text that is scored. With `completion_column` it is the context, and only that
    column is scored; with `endings_column`, each text of that list is scored as the end of the same context.
    """

    completion_column: str | None = field(
        default=None, metadata={"help": "score only this column, texts or token ids, each after its prompt"}
    )
    endings_column: str | None = field(
        default=None, metadata={"help": "score each text of this column's lists as an end of the same prompt"}
    )
    answer_column: str | None = field(
        default=None, metadata={"help": "the right ending: its number from 0, or its text; for accuracies"}
    )
    task: str | None = field(
        default=None,
        metadata={"help": "read a benchmark's own columns instead: " + ", ".join(TASKS)},
    )
    sampling_column: str | None = field(default=None, metadata=HIDDEN)
    min_completion_tokens: int | None = field(default=None, metadata=HIDDEN)

    @property
    def paired(self) -> bool:
        """Whether what is scored follows a prompt that is not scored."""
        of_task = self.task is not None and TASKS[self.task].paired
        return of_task or self.completion_column is not None or self.endings_column is not None

    @property
    def choice(self) -> bool:
        """Whether rows have several endings."""
        return self.endings_column is not None or (self.task is not None and TASKS[self.task].choice)

    def chat_format(self) -> ChatFormat:
        """How conversations become texts: an answer is opened where one is scored after them, as a completion."""
        return replace(super().chat_format(), opens=self.paired)

    def __post_init__(self) -> None:
        """Check every field."""
        require(self.task is None or self.task in TASKS, "task", self.task, "null or one of " + ", ".join(TASKS))
        columns = (*PROMPTS, "completion_column", "endings_column", "answer_column", "system_prompt")
        given = [name for name in columns if getattr(self, name) is not None]
        alone = self.task is None or not (given or self.chat)
        require(
            alone, "task", self.task, f"null with source.{given[0] if given else 'chat'}: a task has columns of its own"
        )
        super().__post_init__()
        if self.task is not None:
            self.prompt_column = None
        require(
            self.completion_column is None or self.endings_column is None, "completion_column and endings_column",
            [self.completion_column, self.endings_column], "only one of them: they exclude each other",
        )  # fmt: skip
        require(
            self.answer_column is None or self.endings_column is not None, "answer_column", self.answer_column,
            "given with source.endings_column only",
        )  # fmt: skip


@dataclass(kw_only=True)
class ScoreOptions:
    """How texts are scored.

    A text longer than the context is read in windows. `sliding`: window k begins at token k · `stride` and scores the tokens
    that no window before it has scored, which is the procedure of transformers' perplexity guide; the first token of a window
    is never scored by it. `rolling`: windows of new tokens, each read after the last token of the one before it, the last
    window after as many as fit, which is the procedure of lm-evaluation-harness. `stride` null is half of the context.
    """

    stride: int | None = field(
        default=None, metadata={"help": "tokens from a window of a long text to the next; null: half of the context"}
    )
    windows: str = field(
        default="sliding",
        metadata={"help": "sliding (transformers' guide) or rolling (lm-evaluation-harness, without stride)"},
    )
    concatenate: bool = field(
        default=False, metadata={"help": "score all rows as one long text, joined by score.separator"}
    )
    detokenize: str | None = field(
        default=None,
        metadata={
            "help": "none, wiki or ptb: undo a corpus's tokenisation of whole texts; null: what source.task does, or none"
        },
    )
    separator: str = field(default="\n\n", metadata={"help": "what stands between two rows of the one long text"})
    bos: bool = field(
        default=False, metadata={"help": "put the beginning-of-text token before a text, so that its first is scored"}
    )
    words: str = field(
        default="split",
        metadata={
            "help": "split: pieces between blanks; harness: blanks at either end count one more, as it counts them"
        },
    )
    delimiter: str = field(
        default="", metadata={"help": "what is put between a prompt and its completion or ending, such as a blank"}
    )
    unconditional: bool = field(
        default=False, metadata={"help": "score endings without their prompt too, and compare by the difference"}
    )

    def __post_init__(self) -> None:
        """Check every field."""
        require(self.stride is None or self.stride >= 1, "stride", self.stride, "null or a whole number from 1")
        require(self.windows in WINDOWS, "windows", self.windows, "one of " + ", ".join(WINDOWS))
        known = ", ".join(DETOKENIZERS)
        require(
            self.detokenize is None or self.detokenize in DETOKENIZERS, "detokenize", self.detokenize, f"one of {known}"
        )
        require(self.words in WORDS, "words", self.words, "one of " + ", ".join(WORDS))
        require(
            self.stride is None or self.windows == "sliding", "stride", self.stride, "null with score.windows=rolling"
        )
