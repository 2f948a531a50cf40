"""A finite probabilistic grammar whose document probabilities and entropy are known exactly.

A document is derived from left to right. Weighted choices may bind named features ("name" is "Nora", "she" is
"she"), texts may quote features that were bound earlier, and switches take the branch that a bound feature names.
So later sentences agree with earlier ones, and every document keeps a probability that can be computed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nodes import Choice, Node, Sequence, Switch, Text

__all__ = ["Document", "Grammar"]


@dataclass(frozen=True, slots=True)
class Document:
    """A sampled document.

    Attributes:
        text: The text.
        log_probability: The natural logarithm of its probability under the grammar, its end included.
        topic: The topic that it was sampled from.
    """

    text: str
    log_probability: float
    topic: str


@dataclass(frozen=True)
class Grammar:
    """Topics with equal probabilities, each with the node that derives its documents.

    Every probability below is that of a text, the choice of its topic included. It is the sum over all derivations,
    so it is right for any such grammar; the entropy is that of the derivations, so it is that of the texts only if
    each text has a single derivation (``derivations`` tells).
    """

    topics: Mapping[str, Node]
    _switches: dict[Node, frozenset[str]] = field(default_factory=dict, repr=False, compare=False)

    def sample(self, rng: random.Random, topic: str | None = None) -> Document:
        """Draw a document.

        Args:
            rng: The source of randomness.
            topic: The topic to draw from, or None to draw the topic too.

        Returns:
            The document; its log-probability includes that of its topic even if the topic was given.
        """
        chosen = rng.choice(sorted(self.topics)) if topic is None else topic
        log_probability = -math.log(len(self.topics))
        stack: list[Node] = [self.topics[chosen]]
        features: dict[str, str] = {}
        pieces: list[str] = []
        while stack:
            node = stack.pop()
            if isinstance(node, Text):
                pieces.append(node.template.format_map(features))
            elif isinstance(node, Sequence):
                stack.extend(reversed(node.parts))
            elif isinstance(node, Switch):
                stack.append(node.cases[features[node.feature]])
            else:
                option = rng.choices(node.options, [option.probability for option in node.options])[0]
                log_probability += math.log(option.probability)
                features.update(option.features)
                stack.append(option.body)
        return Document("".join(pieces), log_probability, chosen)

    def log_probability(self, text: str, *, beginning: bool = False) -> float:
        """Compute the log-probability of a text by parsing it.

        Args:
            text: A whole document, or with ``beginning`` the first characters of one.
            beginning: Compute the probability that a document begins with ``text``, not that it is ``text``.

        Returns:
            The natural logarithm of the probability; minus infinity if the grammar cannot derive the text.
        """
        probability = math.fsum(math.exp(value) for value in self.derivations(text, beginning=beginning))
        return math.log(probability) if probability > 0.0 else -math.inf

    def derivations(self, text: str, *, beginning: bool = False) -> Iterator[float]:
        """Parse a text in every possible way.

        Args:
            text: A whole document, or with ``beginning`` the first characters of one.
            beginning: Stop each derivation where the text ends, whatever might follow.

        Yields:
            The log-probability of each derivation.
        """
        start = -math.log(len(self.topics))
        agenda: list[tuple[tuple[Node, ...], Mapping[str, str], int, float]]
        agenda = [((root,), {}, 0, start) for root in self.topics.values()]
        while agenda:
            stack, features, position, value = agenda.pop()
            if position == len(text) and (beginning or not stack):
                yield value
                continue
            if not stack:
                continue
            node, rest = stack[0], stack[1:]
            if isinstance(node, Text):
                expected = node.template.format_map(features)
                if text.startswith(expected, position):
                    agenda.append((rest, features, position + len(expected), value))
                elif beginning and expected.startswith(text[position:]):
                    yield value
            elif isinstance(node, Sequence):
                agenda.append((node.parts + rest, features, position, value))
            elif isinstance(node, Switch):
                agenda.append(((node.cases[features[node.feature]], *rest), features, position, value))
            else:
                for option in node.options:
                    bound = {**features, **option.features} if option.features else features
                    agenda.append(((option.body, *rest), bound, position, value + math.log(option.probability)))

    def entropy(self, topic: str | None = None) -> float:
        """Compute the exact entropy of a document by the chain rule.

        Args:
            topic: The topic to condition on, or None for a document of any topic (the choice of topic included).

        Returns:
            The entropy in nats.
        """
        memo: dict[tuple[tuple[Node, ...], frozenset[tuple[str, str]]], float] = {}
        if topic is not None:
            return self._entropy((self.topics[topic],), {}, memo)
        return math.log(len(self.topics)) + math.fsum(map(self.entropy, self.topics)) / len(self.topics)

    def _entropy(
        self,
        stack: tuple[Node, ...],
        features: Mapping[str, str],
        memo: dict[tuple[tuple[Node, ...], frozenset[tuple[str, str]]], float],
    ) -> float:
        """Return the entropy in nats of what ``stack`` derives once ``features`` are bound."""
        if not stack:
            return 0.0
        # Only switches make the future depend on the past; without this cut the table would grow with every feature.
        needed = frozenset[str]().union(*map(self._switched, stack))
        kept = {name: value for name, value in features.items() if name in needed}
        key = (stack, frozenset(kept.items()))
        if key not in memo:
            node, rest = stack[0], stack[1:]
            if isinstance(node, Text):
                memo[key] = self._entropy(rest, kept, memo)
            elif isinstance(node, Sequence):
                memo[key] = self._entropy(node.parts + rest, kept, memo)
            elif isinstance(node, Switch):
                memo[key] = self._entropy((node.cases[kept[node.feature]], *rest), kept, memo)
            else:
                total = 0.0
                for option in node.options:
                    later = self._entropy((option.body, *rest), {**kept, **option.features}, memo)
                    total += option.probability * (later - math.log(option.probability))
                memo[key] = total
        return memo[key]

    def _switched(self, node: Node) -> frozenset[str]:
        """Return the names of the features on which switches at or below ``node`` depend."""
        if node not in self._switches:
            below: tuple[Node, ...] = ()
            own: frozenset[str] = frozenset()
            if isinstance(node, Sequence):
                below = node.parts
            elif isinstance(node, Choice):
                below = tuple(option.body for option in node.options)
            elif isinstance(node, Switch):
                below, own = tuple(node.cases.values()), frozenset({node.feature})
            self._switches[node] = own.union(*map(self._switched, below))
        return self._switches[node]
