"""Computes the statistics of chosen tokens under the model's own distribution.

A statistic is a function registered under a name. In each step, the engine runs the configured ones on the logits before
temperature, penalties and truncation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from pipeline.engine import gpu, native
from pipeline.engine.config import StatsConfig
from pipeline.engine.gpu import sampler as gpu_sampler
from pipeline.engine.native.sampler import measure_tokens


@dataclass(frozen=True, slots=True)
class Measures:
    """The quantities from which the usual statistics are computed.

    Attributes:
        most: Largest logit of each row, float32 [B].
        log_sum: Logarithm of the sum of exp(logit - most), float32 [B].
        entropies: Entropy of each row, nats, float32 [B].
        ranks: Ranks of the chosen tokens, int32 [B].
        finite: Whether all logits of a row are finite, bool [B].
    """

    most: torch.Tensor
    log_sum: torch.Tensor
    entropies: torch.Tensor
    ranks: torch.Tensor
    finite: torch.Tensor


@dataclass(frozen=True)
class Distribution:
    """The model's distribution at the B positions of a step and the tokens chosen there.

    Attributes:
        logits: Float32 [B, V].
        tokens: [B].
        top: Number of alternatives to return; 0: none.
    """

    logits: torch.Tensor
    tokens: torch.Tensor
    top: int = 0

    @cached_property
    def measures(self) -> Measures:
        """Computed at first use, in one pass over the logits if compiled code serves them."""
        if gpu.serves(self.logits.device):
            return Measures(*gpu_sampler.measure_tokens(self.logits, self.tokens))
        if native.serves(self.logits):
            return Measures(*measure_tokens(self.logits, self.tokens))
        most = self.logits.amax(-1)
        below = self.logits - most[:, None]
        weights = below.exp()
        total = weights.sum(-1)
        larger = self.logits > self.logits.gather(-1, self.tokens[:, None])
        return Measures(
            most, total.log(), total.log() - weights.mul_(below).sum(-1) / total,
            larger.sum(-1, dtype=torch.int32) + 1, self.logits.sum(-1).isfinite(),
        )  # fmt: skip

    def log_probability(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of tokens with these logits, [B, …]: log-softmax in float32."""
        shape = (-1, *[1] * (logits.ndim - 1))
        return logits - self.measures.most.view(shape) - self.measures.log_sum.view(shape)

    @cached_property
    def log_probabilities(self) -> torch.Tensor:
        """Those of all tokens, float32 [B, V]."""
        return self.log_probability(self.logits)

    @cached_property
    def probabilities(self) -> torch.Tensor:
        """Those of all tokens, float32 [B, V]."""
        return self.log_probabilities.exp()


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
    return {"token_logprobs": d.log_probability(d.logits.gather(-1, d.tokens[:, None]))[:, 0]}


@statistic("entropy")
def entropy(d: Distribution) -> Values:
    """Entropy of the distribution, nats, float32."""
    return {"token_entropies": d.measures.entropies}


@statistic("rank")
def rank(d: Distribution) -> Values:
    """Rank of the token, 1 = most likely, int32: one more than the number of tokens with a larger logit."""
    return {"token_ranks": d.measures.ranks}


@statistic("top_logprobs")
def top_logprobs(d: Distribution) -> Values:
    """The `top` most likely tokens, int32 [B, k], and their log-probabilities, float32 [B, k], in descending order."""
    on_gpu = gpu.serves(d.logits.device)
    values, ids = gpu_sampler.top_tokens(d.logits, d.top) if on_gpu else d.logits.topk(d.top)
    return {"top_token_ids": ids.int(), "top_token_logprobs": d.log_probability(values)}


def token_logprobs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities, float32 [B], of `tokens` [B] under `logits`, float32 [B, V]: of prompts and generated tokens alike."""
    rows = len(tokens)
    if rows == 0:
        return logits.new_empty(0)
    # torch reduces a single row with several threads, which rounds differently
    if rows == 1 and not native.serves(logits):
        logits, tokens = logits.expand(2, -1), tokens.expand(2)
    return logprob(Distribution(logits, tokens))["token_logprobs"][:rows]


def wanted(stats: StatsConfig) -> list[str]:
    """Return the statistics to compute; always with the log-probability, whose sum is the cumulative one."""
    return [*dict.fromkeys(["logprob", *stats.columns]), *(["top_logprobs"] if stats.top_logprobs else [])]


def compute(names: Sequence[str], distribution: Distribution) -> Values:
    """Run the named statistics and return their columns."""
    columns: Values = {}
    for name in names:
        columns.update(STATISTICS[name](distribution))
    return columns
