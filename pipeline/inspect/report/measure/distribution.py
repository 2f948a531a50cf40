"""Counts how likely the tokens were: by rank, by probability, by entropy; and whether they follow the distribution.

The three histograms are those of GLTR (Gehrmann et al. 2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.inspect.batch import Batch
from pipeline.inspect.page.tokens import RANKS

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
SHARES = 20
"""Bins of a probability from 0 to 1."""
ENTROPY_STEP = 0.25
ENTROPY_BINS = 64
"""Bins of the entropy; the last has what is above 15.75 nats."""
_TOP = "top_token_logprobs"


@dataclass
class Calibration:
    """Sums for the difference d = log-probability + entropy of each token.

    Sampled from the distribution itself, without truncation, d has mean 0 at every token whatever was before it. So the sums
    are a martingale: the d of different tokens are uncorrelated, and the standard error of their mean is √Σd² / tokens.
    """

    tokens: int = 0
    logprob: float = 0.0
    entropy: float = 0.0
    squares: float = 0.0
    counts: Counts = field(default_factory=lambda: np.zeros(ENTROPY_BINS, np.int64))
    surprises: Floats = field(default_factory=lambda: np.zeros(ENTROPY_BINS))
    entropies: Floats = field(default_factory=lambda: np.zeros(ENTROPY_BINS))
    bin_squares: Floats = field(default_factory=lambda: np.zeros(ENTROPY_BINS))

    def add(self, logprobs: Floats, entropies: Floats) -> None:
        """Add tokens, float64 [N] each, nats."""
        difference = logprobs + entropies
        self.tokens += len(difference)
        self.logprob += float(logprobs.sum())
        self.entropy += float(entropies.sum())
        self.squares += float(np.square(difference).sum())
        place = _entropy_bin(entropies)
        self.counts += np.bincount(place, minlength=ENTROPY_BINS)
        for total, values in (
            (self.surprises, -logprobs), (self.entropies, entropies), (self.bin_squares, np.square(difference)),
        ):  # fmt: skip
            total += np.bincount(place, weights=values, minlength=ENTROPY_BINS)

    @property
    def difference(self) -> float:
        """Mean log-probability plus mean entropy, nats: 0 but for chance."""
        return (self.logprob + self.entropy) / self.tokens if self.tokens else 0.0

    @property
    def standard_error(self) -> float:
        """That of `difference`."""
        return math.sqrt(self.squares) / self.tokens if self.tokens else 0.0


@dataclass
class Distribution:
    """The counts of tokens.

    Attributes:
        tokens: Tokens seen.
        ranks: Per band of `RANKS`, and beyond; all zero if ranks were not recorded, as with the others.
        greatest_rank: The greatest rank seen.
        probabilities: Per bin of `SHARES`.
        relative: The same for the probability relative to the most likely token's.
        least_relative: The least such value; its logarithm, nats.
        entropies: Per bin of `ENTROPY_STEP`.
        calibration: Of tokens that have log-probability and entropy.
    """

    tokens: int = 0
    ranks: Counts = field(default_factory=lambda: np.zeros(len(RANKS) + 1, np.int64))
    greatest_rank: int = 0
    probabilities: Counts = field(default_factory=lambda: np.zeros(SHARES, np.int64))
    relative: Counts = field(default_factory=lambda: np.zeros(SHARES, np.int64))
    least_relative: float = 0.0
    entropies: Counts = field(default_factory=lambda: np.zeros(ENTROPY_BINS, np.int64))
    logprob: float = 0.0
    calibration: Calibration = field(default_factory=Calibration)

    def add(self, batch: Batch, tokens: int) -> None:
        """Count the tokens of a batch, of which there are so many."""
        self.tokens += tokens
        ranks = _known(batch, "token_ranks")
        logprobs = _known(batch, "token_logprobs")
        entropies = _known(batch, "token_entropies")
        if ranks is not None and len(ranks):
            self.ranks += np.bincount(np.searchsorted(RANKS, ranks), minlength=len(RANKS) + 1)
            self.greatest_rank = max(self.greatest_rank, int(ranks.max()))
        if logprobs is not None:
            self.logprob += float(logprobs.sum())
            self.probabilities += _shares(logprobs)
            self._add_relative(batch, logprobs)
        if entropies is not None:
            self.entropies += np.bincount(_entropy_bin(entropies), minlength=ENTROPY_BINS)
        if logprobs is not None and entropies is not None and len(logprobs) == len(entropies):
            self.calibration.add(logprobs, entropies)

    def _add_relative(self, batch: Batch, logprobs: Floats) -> None:
        """Compare with the most likely token, where the most likely ones were recorded."""
        if not batch.has(_TOP):
            return
        _, inner = batch.nested(_TOP)
        if len(inner.lengths) != len(logprobs) or not len(logprobs) or not inner.lengths.all():
            return
        best = np.maximum.reduceat(inner.values.astype(np.float64), inner.first)
        relative = np.minimum(0.0, logprobs - best)
        self.relative += _shares(relative)
        self.least_relative = min(self.least_relative, float(relative.min()))


def _known(batch: Batch, name: str) -> Floats | None:
    """Return the finite values of a list column, float64 [N]; None if there is no such column."""
    if not batch.has(name):
        return None
    found = batch.lists(name)
    values = found.values.astype(np.float64)
    return values[np.isfinite(values) & ~found.holes]


def _shares(logs: Floats) -> Counts:
    place = np.minimum((np.exp(np.minimum(logs, 0.0)) * SHARES).astype(np.int64), SHARES - 1)
    return np.bincount(place, minlength=SHARES).astype(np.int64)


def _entropy_bin(entropies: Floats) -> Counts:
    return np.clip((entropies / ENTROPY_STEP).astype(np.int64), 0, ENTROPY_BINS - 1)
