"""Declares the statistics of generated tokens: name, column, type, bounds and meaning of each.

The options, the output's schema, `verify` and the documentation take them from here; `engine/layers/stats.py` has the
functions. All are computed under the model's own distribution: before temperature, penalties and truncation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

SLACK = 1e-4
"""Tolerance for float32 sums over a vocabulary, in nats."""


@dataclass(frozen=True, slots=True)
class TokenStatistic:
    """A number per generated token.

    Attributes:
        name: As in `stats.columns`.
        column: The output's list column.
        meaning: For the documentation and the dataset card.
        bounds: Vocabulary size (inf where it is unknown) → (lowest, highest) value.
        whole: Whether values are int32; else they are float32.
        default: Whether it is computed unless `stats.columns` says otherwise. A new statistic is not, because that
            would change what existing configurations write.
    """

    name: str
    column: str
    meaning: str
    bounds: Callable[[float], tuple[float, float]]
    whole: bool = False
    default: bool = False


STATISTICS = {
    statistic.name: statistic
    for statistic in (
        TokenStatistic(
            "logprob", "token_logprobs",
            "log-probability of each generated token under the model's own distribution, nats",
            lambda tokens: (-math.inf, SLACK), default=True,
        ),
        TokenStatistic(
            "entropy", "token_entropies", "entropy of that distribution at each token, nats",
            lambda tokens: (-SLACK, math.log(tokens) + SLACK), default=True,
        ),
        TokenStatistic(
            "rank", "token_ranks", "rank of the token in it, 1 = most likely",
            lambda tokens: (1.0, tokens), whole=True, default=True,
        ),
    )
}  # fmt: skip
