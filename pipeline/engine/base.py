"""Defines the interfaces of an engine and of a backend, which finds a model and builds an engine for it.

It imports no torch, so a job can be planned where torch is not installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.types import ChatFormat, Completion, Request, Room, SamplingParams, Tokenizer

if TYPE_CHECKING:
    from pipeline.engine.calibration.figures import Calibration


class Engine(Protocol):
    """Turns requests into completions.

    A completion is a pure function of its request and the model; other requests in the engine do not change it.
    """

    def add(self, requests: Sequence[Request]) -> None:
        """Queue requests. Requests of one call may start in any order; calls are served first come, first served.

        Every request must have 1 to `max_model_len` - 1 prompt tokens, each within the vocabulary; one that scores, 2 to
        `max_model_len` + 1. The requests in an engine either all score or all generate.
        """

    def step(self) -> list[Completion]:
        """Run one step and return the completions that it finished. Does nothing when no request is in the engine."""

    def load(self) -> tuple[int, int]:
        """Return (running, waiting): sequences that hold a slot in the batch, and requests that wait for one."""

    @property
    def room(self) -> Room:
        """The capacity for sequences, and the use of the KV cache. Read after every step."""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine, and what else its caller needs.

    Attributes:
        engine: The engine.
        tokenizer: The model's tokenizer.
        max_model_len: Longest prompt plus generation, tokens.
        check: Raises a `ValueError` with the reason if a row's sampling parameters cannot be followed.
        renew: Makes a new, empty engine around the same model. The caller must have dropped the old one.
        facts: Facts that the output's bytes depend on here, for the manifest: processor, kernels, dtype, threads.
        lost: Returns why the device no longer works in this process, or None if it does. It is asked after an exception.
            None: there is no way to ask, and the exception's text decides.
    """

    engine: Engine
    tokenizer: Tokenizer
    max_model_len: int
    check: Callable[[SamplingParams], None]
    facts: dict[str, Any]
    renew: Callable[[], Engine]
    lost: Callable[[], str | None] | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """What a backend knows about a model before it is loaded.

    Attributes:
        content: Name → digest of everything that decides what the model computes and how text becomes tokens.
        model: Other options of the model that decide the output's bytes, as JSON values; they become part of the plan.
        engine: The same for the engine's options, other than its name and `max_model_len`.
        dtype: `model.dtype`, resolved; `auto` if the backend does not resolve it.
        max_model_len: Longest prompt plus generation, tokens.
        vocab_size: Number of tokens; None: not known before the model is loaded.
        weight_bytes: Size of the weights.
        parameters: Approximate number of parameters.
        statistics: The names in `stats.columns` that it can measure.
        lists: Whether it can give the most likely tokens per step and the log-probabilities of prompts.
        chat_template: The text of the model's own chat template; None: it has none.
        notes: Lines about what was chosen and is not obvious, for the person who runs the job.
        scores: Whether it can score given tokens.
        provenance: Name → where the model comes from, for the manifest and the card.
        doubts: A line for each thing about the model that is legal and surely a mistake.
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
    notes: tuple[str, ...] = ()
    scores: bool = False
    provenance: Mapping[str, str] = field(default_factory=dict)
    doubts: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources that an engine may use.

    Attributes:
        device: `cpu` or `cuda`.
        threads: CPU threads; None: the library's own choice.
        memory_share: Fraction of the device's memory, when several engines share it.
        expected: Approximate number of completions that will be requested; None: unknown.
    """

    device: str = "cpu"
    threads: int | None = None
    memory_share: float = 1.0
    expected: int | None = None


class Backend(Protocol):
    """Finds a model and builds an engine for it: `identify` and `check` where the job is planned, `build` in each worker.

    The constructor takes the configuration of the model and of the engine, and does no work. `registry` lists the backends by
    the names that `engine.name` takes.
    """

    def __init__(self, model: ModelConfig, engine: EngineConfig) -> None:
        """Keep the configuration."""

    def identify(self, *, gpus: float, fresh: bool = False) -> Identity:
        """Find the model and say what it is, without loading it.

        Args:
            gpus: GPUs per replica; 0: it runs on the CPU.
            fresh: Read every file, instead of taking the digest that an earlier job found for a file that has not changed
                since.

        Raises:
            ModelRefused: If it is missing, unsafe or not served.
            ConfigurationError: If this backend does not support an option's value.
        """

    def check(self, sampling: SamplingParams) -> Sequence[str]:
        """Return a line per setting of the model that `sampling` ignores. Call `identify` first.

        Raises:
            ValueError: If the engine cannot follow `sampling`. The message is the name of the field, a colon and the reason.
        """

    def check_chat(self, form: ChatFormat) -> None:
        """Check that conversations can be rendered. Call `identify` first; called only if the job has conversations.

        Raises:
            ValueError: If they cannot; the message is the reason.
        """

    def build(self, stats: StatsConfig, resources: Resources) -> BuiltEngine:
        """Load the model and build an engine for it.

        Raises:
            ModelRefused: If it cannot be loaded here.
        """


@runtime_checkable
class Foreseeable(Protocol):
    """A backend that can say beforehand how long its engine takes, and with what memory. No backend has to."""

    def tokenizer(self, *, quick: bool) -> Tokenizer | None:
        """Return the model's tokenizer, or None. Call `identify` first.

        Args:
            quick: Only without the seconds that it takes to import a large library; chat templates may be missing.
        """

    def calibration(
        self, stats: StatsConfig, sampling: SamplingParams, threads: int, measure: Callable[[int, int], None] | None,
        *, scoring: bool = False,
    ) -> Calibration | None:  # fmt: skip
        """Return what was measured of a model of this shape on this machine; None: nothing is known.

        Args:
            stats: The statistics to compute.
            sampling: How tokens are chosen.
            threads: CPU threads of a replica.
            measure: If nothing is known, or what is known was disturbed, measure now; called before that, with the number of
                layers that are measured and of those that the model has. None: do not measure.
            scoring: Whether given tokens are scored, so that none is chosen.

        Raises:
            ModelRefused: If it cannot be measured.
        """
