"""What an engine is to whoever feeds it, and what a backend is, which finds a model and puts an engine around it.

It imports no torch, and so can be had where only a job is planned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.types import ChatFormat, Completion, Request, Room, SamplingParams, Tokenizer


class Engine(Protocol):
    """Turns requests into completions.

    A completion is a pure function of its request and the model: what else is in the engine does not matter.
    """

    def add(self, requests: Sequence[Request]) -> None:
        """Queue requests. Those of one call may be started in any order; calls are served first come, first served.

        Every request must have 1 to `max_model_len` - 1 prompt tokens, each within the vocabulary.
        """

    def step(self) -> list[Completion]:
        """Advance what is queued by one step and return what that finished. Does nothing when nothing is queued."""

    def load(self) -> tuple[int, int]:
        """Return (running, waiting): sequences that hold a place in the batch, and requests that wait for one."""

    @property
    def room(self) -> Room:
        """How many sequences may run at once, and how much of the KV cache is in use. Asked for after every step."""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine with what its feeder must know.

    Attributes:
        engine: The engine.
        tokenizer: The model's tokenizer.
        max_model_len: Longest prompt plus generation, tokens.
        check: Raises a `ValueError` with the reason if a row's sampling parameters cannot be followed.
        renew: Makes another engine around the same model, empty; the one before must not be held any more.
        facts: What the identity of the output's bytes rests on here, for the manifest: processor, kernels, type, threads.
    """

    engine: Engine
    tokenizer: Tokenizer
    max_model_len: int
    check: Callable[[SamplingParams], None]
    facts: dict[str, Any]
    renew: Callable[[], Engine]


@dataclass(frozen=True, slots=True)
class Identity:
    """What a backend says of a model before it is loaded.

    Attributes:
        content: Name → digest of all that decides what the model computes and how text becomes tokens.
        model: What else of the model's configuration decides the output's bytes; a part of the plan, as JSON has it.
        engine: The same of the engine's configuration, beside its name and `max_model_len`.
        dtype: What `model.dtype` comes to; `auto` where it says nothing.
        max_model_len: Longest prompt plus generation, tokens.
        vocab_size: Number of tokens; None: not known before the model is loaded.
        weight_bytes: Size of the weights.
        parameters: Their number, about.
        statistics: The names in `stats.columns` that it can measure.
        lists: Whether it can give the most likely tokens of each step and the log-probabilities of prompts.
        chat_template: The text of the model's own chat template; None: it has none.
    """

    content: Mapping[str, str]
    model: Mapping[str, Any]
    engine: Mapping[str, Any]
    dtype: str
    max_model_len: int
    vocab_size: int | None
    weight_bytes: int
    parameters: float
    statistics: frozenset[str]
    lists: bool = True
    chat_template: str | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """What an engine may take.

    Attributes:
        device: `cpu` or `cuda`.
        threads: Processor threads; None: the library's own choice.
        memory_share: Part of the device's memory, when several engines share it.
        expected: Completions that will be asked for, about; None: nothing is known.
    """

    device: str = "cpu"
    threads: int | None = None
    memory_share: float = 1.0
    expected: int | None = None


class Backend(Protocol):
    """Finds a model and puts an engine around it: `identify` and `check` where the job is planned, `build` in each worker.

    It is made with the configuration of the model and of the engine, and does nothing before it is asked. `registry` has the
    names by which `engine.name` chooses one.
    """

    def __init__(self, model: ModelConfig, engine: EngineConfig) -> None:
        """Keep the configuration."""

    def identify(self, *, gpus: float) -> Identity:
        """Find the model and say what it is, without loading it.

        Args:
            gpus: GPUs of a replica; 0: it runs on processors.

        Raises:
            ModelRefused: If it is missing, unsafe or not served.
            ConfigurationError: If an option asks for what this backend does not do.
        """

    def check(self, sampling: SamplingParams) -> Sequence[str]:
        """Return a line for each setting of the model that `sampling` leaves undone, after `identify`.

        Raises:
            ValueError: If `sampling` cannot be followed: the name of the field, a colon and why.
        """

    def check_chat(self, form: ChatFormat) -> None:
        """See that conversations can be rendered, after `identify`; asked only if some are.

        Raises:
            ValueError: If they cannot: why.
        """

    def build(self, stats: StatsConfig, resources: Resources) -> BuiltEngine:
        """Load the model and put an engine around it.

        Raises:
            ModelRefused: If it cannot be loaded here.
        """
