"""A step in flight, between its launch and its results, and the interface that launches it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Protocol

import torch

from pipeline.engine.layers.stats import Values
from pipeline.engine.rules.constraints import End
from pipeline.engine.rules.stopping import StopWatch
from pipeline.engine.scheduler import Step
from pipeline.engine.sequence import Sequence
from pipeline.types import ErrorCode, RowError

NONFINITE = RowError(
    ErrorCode.NONFINITE_LOGITS, "the model's logits are not finite: its weights or type may be at fault"
)


@dataclass(frozen=True, slots=True)
class Scores:
    """The statistics of some scored tokens of a sequence, which follow those of its earlier steps.

    Attributes:
        sequence: The sequence.
        values: The statistics; [N, …] per column.
        finite: Whether all logits were finite.
        last: Whether its last token is among them.
    """

    sequence: Sequence
    values: Values
    finite: bool
    last: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """A step's results, in the host's memory.

    Attributes:
        tokens: The token that each of B sequences chose.
        finite: Whether the logits of each were finite.
        values: The statistics; [B, …] per column.
        prompt_logprobs: Log-probabilities of prompt tokens, in order, with the sequences that they belong to.
        ends: How rows end for which no token is allowed.
        scores: The statistics of scored tokens.
    """

    tokens: list[int] = field(default_factory=list)
    finite: list[bool] = field(default_factory=list)
    values: Values = field(default_factory=dict)
    prompt_logprobs: list[tuple[Sequence, torch.Tensor]] = field(default_factory=list)
    ends: dict[int, End] = field(default_factory=dict)
    scores: list[Scores] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Flight:
    """A step that was launched.

    Attributes:
        sequences: The sequences that choose a token in it.
        wait: Waits until the device has computed the step, and returns the outcome.
    """

    sequences: list[Sequence]
    wait: Callable[[], Outcome]


class Stepper(Protocol):
    """Computes steps, in the order in which they are launched."""

    def admit(self, admitted: Seq[tuple[Sequence, StopWatch | None]]) -> None:
        """Prepare sequences that were given a slot; one that is scored has no stop watch."""

    def launch(self, step: Step) -> Flight:
        """Start a step that has work."""

    def shed(self) -> bool:
        """Do without the memory that only makes steps faster, from now on; return False if there is none left to give up.

        No step may be in flight.
        """
