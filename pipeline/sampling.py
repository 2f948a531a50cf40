"""Sampling parameters: how tokens are chosen, when a completion ends, and what its text must be like."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.wording import as_given

MAX_SEED = 2**63 - 1
MAX_BIAS = 100
STRUCTURED = ("regex", "choice", "json_schema")
"""At most one of these is given: it constrains the text."""


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
        raise ValueError(f"{name}={as_given(value)}: must be {allowed}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    r"""How tokens are chosen and when a completion ends. Names and meanings are vLLM's and Hugging Face's.

    `temperature=0` is greedy. `top_k=0`, `top_p=1`, `min_p=0`, a `repetition_penalty` of 1, the two other penalties of 0,
    an empty list or mapping and None switch a rule off. The order of the rules is vLLM's:

    1. tokens that may not come next are masked: by `regex`, `choice` or `json_schema`, then `bad_words`, then `min_tokens`;
    2. `logit_bias` is added;
    3. the repetition penalty, then the frequency and the presence penalty;
    4. temperature;
    5. min-p, then top-k, then top-p, each on the renormalised remainder of the one before.

    `logit_bias` adds a number from -100 to 100 to the logits of some tokens: {token id: bias}. -100 makes a
    token very unlikely but does not mask it: where no other token may come next, it still comes.

    `bad_words` are not generated as the tokenizer spells them, alone or after a space: the last token of such a spelling is
    masked where the tokens before it were just generated. Another spelling is not covered: other capitals, other
    tokens for the same text, the word within a longer token, a word that begins in the prompt.

    `regex` (syntax of Rust's regex crate, without look-around; the whole text has to match), `choice` (one of these texts)
    and `json_schema` (a mapping, or JSON text; the order of properties counts) exclude each other. They mask every token
    after which the text could no longer match. A completion ends with `stop` as soon as nothing can follow, without an
    end-of-text token and whatever `min_tokens` says. Where it may end or go on, the end tokens (end-of-text unless
    `ignore_eos`, and `stop_token_ids`) are allowed too, unless `min_tokens` masks them. `stop` and
    `stop_token_ids` may cut a text earlier. A completion that does not match yet ends with `length` at `max_tokens`, or
    where the other rules leave no token that could come next.
    """

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    bad_words: tuple[str, ...] = ()
    regex: str | None = None
    choice: tuple[str, ...] = ()
    json_schema: str | None = None
    max_tokens: int = 64
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field; a `ValueError` names the field, its value and what is allowed."""
        self._check_numbers()
        object.__setattr__(self, "logit_bias", _biases(self.logit_bias))
        if self.json_schema is not None:
            object.__setattr__(self, "json_schema", _schema_text(self.json_schema))
        for name in ("stop", "bad_words", "choice"):
            texts = getattr(self, name)
            good = not isinstance(texts, str) and all(isinstance(s, str) and s for s in texts)
            require(good, name, _as_list(texts), "a list of non-empty texts")
            _check_encodes(name, texts)
            object.__setattr__(self, name, tuple(texts))
        require(self.regex != "", "regex", self.regex, "null or a regular expression")
        _check_encodes("regex", [self.regex or ""])
        given = [name for name in STRUCTURED if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: exclude each other; give one of {', '.join(STRUCTURED)} at most")
        require(
            all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in self.stop_token_ids),
            "stop_token_ids", _as_list(self.stop_token_ids), "a list of token ids (whole numbers from 0)",
        )  # fmt: skip
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))

    def _check_numbers(self) -> None:
        for name in ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"):
            require(math.isfinite(getattr(self, name)), name, getattr(self, name), "a finite number")
        for name, good, allowed in (
            ("n", 1 <= self.n <= 1_000_000, "from 1 to 1000000"),
            ("temperature", 0 <= self.temperature <= 100, "from 0 (greedy) to 100"),
            ("top_k", self.top_k >= 0, "0 (off) or a positive whole number"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 (off) to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty <= 100, "above 0 and at most 100 (1 is off)"),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, "from -2 to 2 (0 is off)"),
            ("frequency_penalty", -2 <= self.frequency_penalty <= 2, "from -2 to 2 (0 is off)"),
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("min_tokens", 0 <= self.min_tokens <= self.max_tokens, f"from 0 to max_tokens ({self.max_tokens})"),
            ("seed", 0 <= self.seed <= MAX_SEED, f"from 0 to {MAX_SEED}"),
        ):
            require(good, name, getattr(self, name), allowed)

    @property
    def structured(self) -> str | None:
        """Which of `STRUCTURED` is given, or None."""
        return next((name for name in STRUCTURED if getattr(self, name)), None)

    def beyond(self, vocab_size: int) -> tuple[str, int] | None:
        """Return (field, id) of the first token id outside a vocabulary of this size; None if there is none."""
        for name, ids in (("stop_token_ids", self.stop_token_ids), ("logit_bias", dict(self.logit_bias))):
            for token in ids:
                if token >= vocab_size:
                    return name, token
        return None

    def plain(self) -> dict[str, Any]:
        """Return the parameters by name, as JSON values; `SamplingParams(**plain)` gives an equal object."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        lists = {name: list(value) for name, value in values.items() if isinstance(value, tuple)}
        return {**values, **lists, "logit_bias": dict(self.logit_bias)}

    def override(self, values: Mapping[str, Any]) -> SamplingParams:
        """Return a copy in which values other than None replace the fields of the same names.

        A value for one of `STRUCTURED` replaces whichever of them is set; an empty `choice` removes it.

        Raises:
            ValueError: If a name is unknown, or a value has the wrong type or is out of range.
        """
        changes: dict[str, Any] = {}
        for name, value in values.items():
            if value is None:
                continue
            if name not in _KINDS:
                raise ValueError(f"{name}: no such sampling parameter; there are {', '.join(_KINDS)}")
            changes[name] = _coerce(name, value)
        if not changes:
            return self
        if any(name in changes for name in STRUCTURED):
            changes = {"regex": None, "choice": (), "json_schema": None, **changes}
        return dataclasses.replace(self, **changes)


_KINDS: dict[str, str] = {f.name: str(f.type).split("[")[0].split(" |")[0] for f in dataclasses.fields(SamplingParams)}
_KINDS |= {"logit_bias": "dict", "json_schema": "any"}
_WANTED = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "tuple": "a list",
    "dict": "a mapping, or a list of pairs, of token ids and biases",
}  # fmt: skip


def _coerce(name: str, value: Any) -> Any:
    """Convert a value to the field's type, or refuse it.

    Accepted are: a whole float for an int, any number for a float, one text for a list of stop strings or bad words, and for
    a mapping the list of pairs that Arrow makes of its maps.
    """
    kind = _KINDS[name]
    if kind == "any" or (kind == "bool" and isinstance(value, bool)) or (kind == "str" and isinstance(value, str)):
        return value
    if kind == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        return _as_float(value)
    if kind == "int" and not isinstance(value, bool) and (isinstance(value, int) or _is_whole(value)):
        return int(value)
    if kind == "tuple" and isinstance(value, str) and name in ("stop", "bad_words"):
        return (value,)
    if kind == "tuple" and isinstance(value, list | tuple):
        return tuple(value)
    if kind == "dict" and isinstance(value, Mapping):
        # a struct has the fields of all rows; those that are null are not this row's
        return {key: bias for key, bias in value.items() if bias is not None}
    pairwise = isinstance(value, list | tuple) and all(isinstance(p, tuple | list) and len(p) == 2 for p in value)
    if kind == "dict" and pairwise:
        pairs = {str(token): bias for token, bias in value}
        require(len(pairs) == len(value), name, value, "given once a token")
        return pairs
    raise ValueError(f"{name}={as_given(value)}: must be {_WANTED[kind]}")


def _as_float(value: int | float) -> float:
    """Return a number as a float; infinity for a whole number that is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _is_whole(value: Any) -> bool:
    """Whether a value is a float without a fraction."""
    return isinstance(value, float) and value.is_integer()


def _as_list(value: Any) -> Any:
    """Return a tuple as the list that the user wrote, for messages."""
    return list(value) if isinstance(value, tuple) else value


def _biases(values: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> tuple[tuple[int, float], ...]:
    """Return (token id, bias) pairs sorted by id; in YAML and JSON the ids may be strings."""
    made: dict[int, float] = {}
    allowed = f"token ids (whole numbers from 0), each once, with biases from -{MAX_BIAS} to {MAX_BIAS}"
    for key, bias in values.items() if isinstance(values, Mapping) else values:
        token = int(key) if isinstance(key, str) and re.fullmatch("[0-9]{1,18}", key) else key
        good = isinstance(token, int) and not isinstance(token, bool) and token >= 0 and token not in made
        number = isinstance(bias, int | float) and not isinstance(bias, bool)
        require(good and number and -MAX_BIAS <= bias <= MAX_BIAS, "logit_bias", {key: bias}, allowed)
        made[token] = float(bias)
    return tuple(sorted(made.items()))


def _schema_text(value: Any) -> str:
    """Return a JSON Schema as JSON text. The order of keys matters here, and the digest of a plan ignores it in mappings."""
    try:
        schema = json.loads(value) if isinstance(value, str) else value
        text = json.dumps(schema, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"json_schema: not JSON: {error}") from error
    require(isinstance(schema, Mapping), "json_schema", value, "null or a mapping, or the JSON text of one")
    _check_encodes("json_schema", [text])
    return text


def _check_encodes(name: str, texts: Iterable[str]) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: half of a surrogate pair is no text") from None
