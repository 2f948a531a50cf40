"""Logits and the chosen token → one value a statistic, under the model's own distribution.

A statistic is a function registered under a name; the engine runs the ones that are asked for in each step. They see the
logits before temperature, penalties and truncation. It does not know how the token was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Distribution:
    """The model's distribution at the B positions of a step and the tokens chosen there.

    Attributes:
        logits: Float32 [B, V].
        log_probabilities: Their log-softmax, float32 [B, V].
        probabilities: Their softmax, float32 [B, V].
        tokens: [B].
        top: How many alternatives are wanted; 0: none.
    """

    logits: torch.Tensor
    log_probabilities: torch.Tensor
    probabilities: torch.Tensor
    tokens: torch.Tensor
    top: int = 0


Values = dict[str, torch.Tensor]
Statistic = Callable[[Distribution], Values]
STATISTICS: dict[str, Statistic] = {}


def statistic(name: str) -> Callable[[Statistic], Statistic]:
    """Register a statistic: a function from a `Distribution` to its output columns, each [B] or [B, k]."""

    def register(function: Statistic) -> Statistic:
        STATISTICS[name] = function
        return function

    return register


@statistic("logprob")
def logprob(d: Distribution) -> Values:
    """Log-probability of the token, nats, float32."""
    return {"token_logprobs": d.log_probabilities.gather(-1, d.tokens[:, None])[:, 0]}


@statistic("entropy")
def entropy(d: Distribution) -> Values:
    """Entropy of the distribution, nats, float32."""
    return {"token_entropies": (d.probabilities * d.log_probabilities).sum(-1).neg_()}


@statistic("rank")
def rank(d: Distribution) -> Values:
    """Rank of the token, 1 = most likely, int32: one more than the number of tokens with a larger logit."""
    return {"token_ranks": (d.logits > d.logits.gather(-1, d.tokens[:, None])).sum(-1).add_(1).int()}


@statistic("top_logprobs")
def top_logprobs(d: Distribution) -> Values:
    """The `top` most likely tokens, int32 [B, k], and their log-probabilities, float32 [B, k], in falling order."""
    values, ids = d.log_probabilities.topk(d.top)
    return {"top_token_ids": ids.int(), "top_token_logprobs": values}


def compute(names: Sequence[str], distribution: Distribution) -> Values:
    """Run the named statistics and return their columns."""
    columns: Values = {}
    for name in names:
        columns.update(STATISTICS[name](distribution))
    return columns
