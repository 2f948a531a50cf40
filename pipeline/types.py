"""The nouns that every room shares: sampling parameters, requests, completions, shards and their reports.

It knows no library but the standard one, and no other module of promptmill.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MAX_SEED = 2**63 - 1


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise the one-line error of a bad option.

    Args:
        condition: Whether the value is acceptable.
        name: The option's name within its section.
        value: What was given.
        allowed: What would be acceptable, as a phrase.

    Raises:
        ValueError: If `condition` is false; the text names the option, its value and what is allowed.
    """
    if not condition:
        raise ValueError(f"{name}={value!r}: must be {allowed}")


class FinishReason(StrEnum):
    """Why a completion ended."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


class ErrorCode(StrEnum):
    """What can be wrong with one row; the job goes on."""

    NULL_PROMPT = "NULL_PROMPT"
    NOT_UTF8 = "NOT_UTF8"
    EMPTY_PROMPT = "EMPTY_PROMPT"
    PROMPT_TOO_LONG = "PROMPT_TOO_LONG"
    BAD_TEMPLATE_ROW = "BAD_TEMPLATE_ROW"
    BAD_SAMPLING = "BAD_SAMPLING"
    BAD_TOKEN_ID = "BAD_TOKEN_ID"
    NONFINITE_LOGITS = "NONFINITE_LOGITS"
    WORKER_CRASH = "WORKER_CRASH"
    TIMEOUT = "TIMEOUT"


@dataclass(frozen=True, slots=True)
class RowError:
    """Why a row has no generation: a code for programs, a message for people."""

    code: ErrorCode
    message: str


@dataclass(kw_only=True)
class SamplingParams:
    """How tokens are chosen and when a completion ends. Names and meanings are vLLM's and Hugging Face's.

    `temperature=0` is greedy. `top_k=0`, `top_p=1`, `min_p=0`, a `repetition_penalty` of 1 and the two other
    penalties of 0 switch a rule off. The order is: penalties, temperature, top-k, top-p, min-p.
    """

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int = 64
    min_tokens: int = 0
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field; a `ValueError` names the field, its value and what is allowed."""
        for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"):
            require(math.isfinite(getattr(self, name)), name, getattr(self, name), "a finite number")
        require(1 <= self.n <= 1_000_000, "n", self.n, "from 1 to 1000000")
        require(0 <= self.temperature <= 100, "temperature", self.temperature, "from 0 (greedy) to 100")
        require(self.top_k >= 0, "top_k", self.top_k, "0 (off) or a positive whole number")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1 (off)")
        require(0 <= self.min_p <= 1, "min_p", self.min_p, "from 0 (off) to 1")
        require(
            0 < self.repetition_penalty <= 100,
            "repetition_penalty",
            self.repetition_penalty,
            "above 0 and at most 100 (1 is off)",
        )
        require(-2 <= self.presence_penalty <= 2, "presence_penalty", self.presence_penalty, "from -2 to 2 (0 is off)")
        require(
            -2 <= self.frequency_penalty <= 2, "frequency_penalty", self.frequency_penalty, "from -2 to 2 (0 is off)"
        )
        require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")
        require(
            0 <= self.min_tokens <= self.max_tokens,
            "min_tokens",
            self.min_tokens,
            f"from 0 to max_tokens ({self.max_tokens})",
        )
        require(all(isinstance(s, str) and s for s in self.stop), "stop", self.stop, "a list of non-empty strings")
        require(
            all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in self.stop_token_ids),
            "stop_token_ids", self.stop_token_ids, "a list of token ids (whole numbers from 0)",
        )  # fmt: skip
        require(0 <= self.seed <= MAX_SEED, "seed", self.seed, f"from 0 to {MAX_SEED}")

    def override(self, values: Mapping[str, Any]) -> SamplingParams:
        """Return a copy in which the non-null values replace the fields of the same names.

        Raises:
            ValueError: If a name is unknown, or a value has the wrong type or is out of range.
        """
        changes: dict[str, Any] = {}
        for name, value in values.items():
            if value is None:
                continue
            if name not in _SAMPLING_TYPES:
                raise ValueError(f"{name}: no such sampling parameter; there are {', '.join(_SAMPLING_TYPES)}")
            changes[name] = _coerce(name, value)
        return dataclasses.replace(self, **changes) if changes else self


_SAMPLING_TYPES: dict[str, type] = {
    f.name: {"int": int, "float": float, "bool": bool}.get(str(f.type), list)
    for f in dataclasses.fields(SamplingParams)
}


def _coerce(name: str, value: Any) -> Any:
    """Accept exactly what the field's type admits: a whole float for an int, any number for a float, one string for a list."""
    kind = _SAMPLING_TYPES[name]
    if kind is bool and isinstance(value, bool):
        return value
    if kind in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        if kind is float:
            return float(value)
        if math.isfinite(value) and int(value) == value:
            return int(value)
    if kind is list:
        if name == "stop" and isinstance(value, str):
            return [value]
        if isinstance(value, list | tuple):
            return list(value)
    wanted = {int: "a whole number", float: "a number", bool: "true or false", list: "a list"}[kind]
    raise ValueError(f"{name}={value!r}: must be {wanted}")


@dataclass(frozen=True, slots=True)
class PromptRow:
    """An input row made ready: what to generate from, or why that cannot be.

    `prompt` is the rendered text (null when the input is token ids, or on an error before rendering);
    `prompt_token_ids` is empty exactly when `error` is set.
    """

    row_id: str
    prompt: str | None
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    error: RowError | None = None

    def requests(self) -> list[Request]:
        """One request a sample; none for a row with an error."""
        if self.error is not None:
            return []
        return [Request(self.row_id, i, self.prompt_token_ids, self.sampling) for i in range(self.sampling.n)]


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to make. Its result is a pure function of this value and the model.

    `max_tokens` of the sampling parameters is an upper bound; the engine clamps it to what the context leaves.
    """

    row_id: str
    sample_index: int
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class Completion:
    """What the engine made of a request.

    Attributes:
        request: The request this answers.
        token_ids: Generated ids, the ending token included when it was generated.
        text: The generated text without the stop string; null on error.
        finish_reason: Why it ended.
        stop_reason: The stop string or token that ended it, else null.
        statistics: Column name → array of one value (or k values) a generated token, e.g. `token_logprobs` [G].
        prompt_token_logprobs: [P] with NaN at the first position, or null when not asked for.
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


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What the driver learns of a finished shard; no text passes through the driver.

    `rows` are input rows, `completions` output rows; `already_there` tells that another attempt had committed it.
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


@dataclass(frozen=True, slots=True)
class Progress:
    """Counters of a replica since it started, for the display only."""

    completions: int = 0
    completion_tokens: int = 0
    prompt_tokens: int = 0
    errors: int = 0
    engine_seconds: float = 0.0
    running: int = 0
    waiting: int = 0
