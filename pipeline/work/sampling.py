"""The options of the section `sampling`, from which a job's sampling parameters are made."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from pipeline.sampling import SamplingParams, require

_DEFAULT = SamplingParams()


@dataclass(kw_only=True)
class SamplingConfig:
    """How tokens are chosen, and when a completion ends; `SamplingParams` says what each option does.

    Lists and mappings are typed loosely, so that a wrong value is refused with a message about what is allowed, and not
    converted: `true` is no text.
    """

    n: int = field(default=_DEFAULT.n, metadata={"help": "completions of each prompt"})
    temperature: float = field(
        default=_DEFAULT.temperature, metadata={"help": "0 is greedy, 1 is the model's own distribution"}
    )
    top_k: int = field(default=_DEFAULT.top_k, metadata={"help": "keep the k most likely tokens; 0 is off"})
    top_p: float = field(
        default=_DEFAULT.top_p,
        metadata={"help": "keep the most likely tokens that together have this probability; 1 is off"},
    )
    min_p: float = field(
        default=_DEFAULT.min_p,
        metadata={"help": "drop tokens less likely than this share of the most likely one; 0 is off"},
    )
    repetition_penalty: float = field(
        default=_DEFAULT.repetition_penalty,
        metadata={"help": "above 1 makes tokens of prompt and generation less likely; 1 is off"},
    )
    presence_penalty: float = field(
        default=_DEFAULT.presence_penalty,
        metadata={"help": "subtracted from the logit of every generated token; 0 is off"},
    )
    frequency_penalty: float = field(
        default=_DEFAULT.frequency_penalty, metadata={"help": "the same for each time it was generated; 0 is off"}
    )
    logit_bias: dict[Any, float] = field(
        default_factory=dict, metadata={"help": "added to the logits of tokens, -100 to 100 each, such as {50256:-5}"}
    )
    bad_words: list[Any] = field(
        default_factory=list,
        metadata={"help": "texts that are not generated as the tokenizer spells them, such as [foo,bar]"},
    )
    regex: str | None = field(
        default=None, metadata={"help": "a regular expression that the whole text must match; needs llguidance"}
    )
    choice: list[Any] = field(
        default_factory=list,
        metadata={"help": "the text must be one of these, such as [positive,negative]; needs llguidance"},
    )
    json_schema: Any = field(
        default=None,
        metadata={"help": "a JSON Schema that the text must satisfy: a mapping or its JSON text; needs llguidance"},
    )
    json_schema_file: str | None = field(
        default=None, metadata={"help": "a file with such a JSON Schema"}
    )  # the command line moves its content to json_schema
    max_tokens: int = field(default=_DEFAULT.max_tokens, metadata={"help": "most tokens to generate"})
    min_tokens: int = field(
        default=_DEFAULT.min_tokens, metadata={"help": "a completion does not end before this many tokens"}
    )
    stop: list[str] = field(
        default_factory=list,
        metadata={"help": r'texts that end a completion, such as ["\n\n",END]; they are not part of its text'},
    )
    stop_token_ids: list[int] = field(default_factory=list, metadata={"help": "token ids that end a completion"})
    ignore_eos: bool = field(
        default=_DEFAULT.ignore_eos, metadata={"help": "go on after the model's end-of-text token"}
    )
    seed: int = field(
        default=_DEFAULT.seed, metadata={"help": "the same seed gives the same bytes, another seed other samples"}
    )

    def __post_init__(self) -> None:
        """Check every field; a `ValueError` names the field, its value and what is allowed."""
        require(
            self.json_schema_file is None, "json_schema_file", self.json_schema_file, "read before, into json_schema"
        )
        self.params()

    def params(self) -> SamplingParams:
        """Return the parameters."""
        return SamplingParams(**{f.name: getattr(self, f.name) for f in fields(SamplingParams)})
