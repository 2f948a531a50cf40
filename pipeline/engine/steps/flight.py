"""A step between its launch and its results: what the engine hands to a device, and what comes back."""

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
class Outcome:
    """What a step gave, in the host's memory.

    Attributes:
        tokens: The token that each of B sequences chose.
        finite: Whether its logits were finite.
        values: Its statistics; for each column [B, …].
        prompt_logprobs: Log-probabilities of prompt tokens, in order, with the sequences that they belong to.
        ends: How rows end that no token may go on with.
    """

    tokens: list[int] = field(default_factory=list)
    finite: list[bool] = field(default_factory=list)
    values: Values = field(default_factory=dict)
    prompt_logprobs: list[tuple[Sequence, torch.Tensor]] = field(default_factory=list)
    ends: dict[int, End] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Flight:
    """A step that was launched.

    Attributes:
        sequences: Those that choose a token in it.
        wait: Waits until the device has computed it, and gives the outcome.
    """

    sequences: list[Sequence]
    wait: Callable[[], Outcome]


class Stepper(Protocol):
    """Computes steps, in the order in which they are launched."""

    def admit(self, admitted: Seq[tuple[Sequence, StopWatch]]) -> None:
        """Take up sequences that were given a slot."""

    def launch(self, step: Step) -> Flight:
        """Start a step that has work."""
