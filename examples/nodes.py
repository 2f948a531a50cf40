"""What a grammar is made of: texts, sequences, weighted choices, and switches on what was chosen before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Choice", "Node", "Option", "Sequence", "Switch", "Text"]

# Nodes compare by identity (eq=False): they are the places of a grammar, so equal wording at two places differs.


@dataclass(frozen=True, eq=False, slots=True)
class Text:
    """Literal text; ``{feature}`` stands for the value of a feature bound earlier in the derivation."""

    template: str


@dataclass(frozen=True, eq=False, slots=True)
class Sequence:
    """Its parts, one after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Option:
    """One alternative of a choice: its probability, its body, and the features that taking it binds."""

    probability: float
    body: Node
    features: Mapping[str, str]


@dataclass(frozen=True, eq=False, slots=True)
class Choice:
    """Exactly one of its options, drawn with the options' probabilities, which sum to one."""

    options: tuple[Option, ...]

    def __post_init__(self) -> None:
        """Refuse probabilities that are not a distribution.

        Raises:
            ValueError: If a probability is not positive, or if they do not sum to one.
        """
        probabilities = [option.probability for option in self.options]
        if min(probabilities, default=0.0) <= 0.0 or not math.isclose(math.fsum(probabilities), 1.0):
            raise ValueError(f"these probabilities are no distribution: {probabilities}")


@dataclass(frozen=True, eq=False, slots=True)
class Switch:
    """The case that the value of a bound feature names; a certain step, which adds nothing to the entropy."""

    feature: str
    cases: Mapping[str, Node]


Node = Text | Sequence | Choice | Switch
