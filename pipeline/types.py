"""Defines the types that all subpackages share: requests, completions, shards and their reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from pipeline.sampling import SamplingParams as SamplingParams
from pipeline.sampling import require as require


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


class ErrorCode(StrEnum):
    """What can be wrong with one row. The job continues."""

    NULL_PROMPT = "NULL_PROMPT"
    NOT_UTF8 = "NOT_UTF8"
    EMPTY_PROMPT = "EMPTY_PROMPT"
    PROMPT_TOO_LONG = "PROMPT_TOO_LONG"
    BAD_TEMPLATE_ROW = "BAD_TEMPLATE_ROW"
    BAD_SAMPLING = "BAD_SAMPLING"
    BAD_TOKEN_ID = "BAD_TOKEN_ID"
    BAD_ANSWER = "BAD_ANSWER"
    CORRUPT_INPUT = "CORRUPT_INPUT"
    NONFINITE_LOGITS = "NONFINITE_LOGITS"
    WORKER_CRASH = "WORKER_CRASH"
    TIMEOUT = "TIMEOUT"


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row has no generation: a code for programs, a message for people."""

    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens to score, within the text that they are read in.

    Attributes:
        token_ids: Ids of the whole text.
        start: Where the tokens begin that are scored. The very first token of a text cannot be scored.
        stop: Where they end (exclusive).
        size: Bytes in UTF-8, characters, and words between blanks, of the text that these tokens stand for.
        text: That text; None: the same as the row's prompt.
        windowed: Whether a long text is read in windows of the context's length; else it is read in one piece, and fits.
        leads: Whether no row before it, of those that are read together, has windows that reach into it.
    """

    token_ids: tuple[int, ...]
    start: int
    stop: int
    size: tuple[int, int, int]
    text: str | None = None
    windowed: bool = False
    leads: bool = True


Messages = Sequence[Mapping[str, Any]]
"""A conversation: `role` and `content` of each message, and any other fields that a template uses."""


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prepared input row: a prompt, or the reason why there is none.

    `prompt` is the rendered text (None when the input is token ids, or on an error before rendering);
    `prompt_token_ids` is empty exactly when `error` is set. `prompt_length` is the number of prompt tokens before truncation,
    0 if unknown. `messages` is the conversation that the prompt was rendered from; with `continues`, the completion continues
    its last message.
    `passages` is what a job that scores does with the row: one passage, or one per ending, of which `answer` is the right one;
    `aside` has the endings without their context.
    """

    row_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    error: RowError | None = None
    prompt_length: int = 0
    messages: Messages | None = None
    continues: bool = False
    passages: tuple[Passage, ...] = ()
    aside: tuple[Passage, ...] = ()
    answer: int | None = None

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens that the model read; for a prompt that was refused, its length."""
        return len(self.prompt_token_ids) if self.error is None else self.prompt_length

    @property
    def cut(self) -> int:
        """Tokens of the prompt that were cut off to make it fit."""
        return 0 if self.error is not None else max(0, self.prompt_length - len(self.prompt_token_ids))

    def requests(self) -> list[Request]:
        """Return one request per sample; none for a row with an error."""
        if self.error is not None:
            return []
        return [Request(self.row_id, i, self.prompt_token_ids, self.sampling) for i in range(self.sampling.n)]


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to make, or tokens to score. Its result is a pure function of this value and the model.

    `max_tokens` of the sampling parameters is an upper bound; the engine clamps it to what the context leaves. With
    `scored_from`, at least 1, nothing is generated: each token from that position on is scored, given those before it. The last
    token is only scored and not read, so there may be one more than the context holds.
    """

    row_id: str
    sample_index: int
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    scored_from: int | None = None

    @property
    def read(self) -> int:
        """Number of its tokens that the model reads."""
        return len(self.prompt_token_ids) - (self.scored_from is not None)


@dataclass(frozen=True, slots=True)
class Completion:
    """The engine's answer to a request.

    Attributes:
        request: The request this answers.
        token_ids: Generated ids, the ending token included when it was generated; of a request that scores, the scored ids.
        text: The generated text without the stop string; None on error, and of a request that scores.
        finish_reason: Why it ended.
        stop_reason: The stop string or token that ended it, else None.
        statistics: Column name → array of one value (or k values) per token of `token_ids`, e.g. `token_logprobs` [G].
        prompt_token_logprobs: [P] with NaN at the first position, or None when not requested.
        error: Set exactly when `finish_reason` is `error`.
    """

    request: Request
    token_ids: tuple[int, ...] = ()
    text: str | None = None
    finish_reason: FinishReason = FinishReason.LENGTH
    stop_reason: str | None = None
    statistics: Mapping[str, Any] = field(default_factory=dict)
    prompt_token_logprobs: Any = None
    error: RowError | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows `start` to `stop` (exclusive) of input file number `file`."""

    file: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Shard:
    """A fixed range of the planned rows, which becomes one part of the output."""

    index: int
    count: int
    segments: tuple[Segment, ...]

    @property
    def rows(self) -> int:
        """Number of input rows."""
        return sum(s.stop - s.start for s in self.segments)

    def row(self, offset: int) -> Segment:
        """Return row `offset` of the shard as a segment of one.

        Raises:
            IndexError: If the shard has no such row.
        """
        for segment in self.segments:
            if offset < segment.stop - segment.start:
                return Segment(segment.file, segment.start + offset, segment.start + offset + 1)
            offset -= segment.stop - segment.start
        raise IndexError(f"shard {self.index} has no such row")


@dataclass(frozen=True, slots=True)
class Task:
    """One assignment of a shard to a replica.

    Attributes:
        shard: The shard.
        attempt: How often this driver has handed it out, this time included.
        trial: Rows `start` to `stop` (exclusive), counted within the shard. Only these rows are generated, and nothing
            is written: the trial shows whether a replica survives them. None: the whole shard becomes a part.
        excluded: Row within the shard → reason. These rows killed or hung replicas; they become errors unread.
        witness: Stored name of a marker that the replica writes, with the attempt's number, before it begins. Without the
            marker, the death of the replica says nothing about this task. None: no marker.
    """

    shard: Shard
    attempt: int = 1
    trial: tuple[int, int] | None = None
    excluded: Mapping[int, ErrorCode] = field(default_factory=dict)
    witness: str | None = None


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What a replica reports about a finished shard; no text passes through the driver.

    `rows` are input rows, `completions` output rows; `already_there`: another attempt had committed it. The last five
    are those of `pipeline.output.record.counts.Counts`.
    """

    shard: int
    file: str
    rows: int
    completions: int
    prompt_tokens: int
    completion_tokens: int
    errors: Mapping[str, int]
    sha256: str
    already_there: bool = False
    finish_reasons: Mapping[str, int] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)
    clamped_rows: int = 0
    cut_off: int = 0
    sums: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Room:
    """An engine's capacity, and how much of its KV cache is in use. The block counts are 0 for a cache without blocks.

    `open_tokens` is the number of tokens generated so far for the running sequences.
    """

    max_num_seqs: int = 0
    kv_blocks_used: int = 0
    kv_blocks: int = 0
    open_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """Counters of a replica since it started, and what its engine holds now.

    `completion_tokens` counts finished completions only, `tokens_made` also the sequences that still run. The counters are for
    the display and the metrics, except the heartbeat `beats`, which grows with everything that the replica gets done: a
    replica that has work and no heartbeat hangs.
    """

    completions: int = 0
    completion_tokens: int = 0
    prompt_tokens: int = 0
    errors: int = 0
    engine_seconds: float = 0.0
    running: int = 0
    waiting: int = 0
    beats: int = 0
    steps: int = 0
    room: Room = field(default_factory=Room)

    @property
    def tokens_made(self) -> int:
        """Tokens generated, whether or not their completion has ended."""
        return self.completion_tokens + self.room.open_tokens


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a conversation becomes a prompt.

    Attributes:
        template: The chat template; None: the tokenizer's own.
        arguments: What a template gets besides the messages and the tools, as the text of a JSON object.
        continue_final: Whether the completion continues the last message instead of answering it.
        day: The date that the template gets, such as `2026-11-28`; None: it uses none.
        opens: Whether an answer is opened after the messages; a conversation that is complete needs none.
    """

    template: str | None = None
    arguments: str = "{}"
    continue_final: bool = False
    day: str | None = None
    opens: bool = True


Renderer = Callable[[Messages, Sequence[Any] | None], str]
"""Messages and tools → the prompt. Raises a `ValueError` with the template's own message if they do not fit."""


class Tokenizer(Protocol):
    """What prompts need of a model's tokenizer."""

    bos_token_id: int | None
    vocab_size: int

    def encode_batch(self, texts: Sequence[str], special: bool | None = None) -> list[list[int]]:
        """Return the token ids of each text, with or without special tokens; None: decided per text."""

    def encode_spans(self, text: str, special: bool | None = None) -> tuple[list[int], list[int]]:
        """Return the token ids of a text as `encode_batch` does, and the character at which each begins."""

    def token(self, token_id: int) -> str:
        """Return a token as the vocabulary spells it."""

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of ids; special tokens leave nothing, unless `special`."""

    def chat(self, form: ChatFormat) -> Renderer:
        """Return a renderer of conversations.

        Raises:
            ValueError: If there is no chat template, or it does not compile.
        """
