"""Measures repetition: distinct n-grams of all texts, n-grams that a text repeats, and the most frequent ones.

Tokens are the words. distinct-n is that of Li et al. 2016, the share of repeated n-grams in a text that of Welleck et al. 2019.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.inspect.batch import Batch, Lists

Hashes = npt.NDArray[np.uint64]
SIZES = (1, 2, 3, 4)
REPEATED = 4
"""Tokens of the n-grams whose repetition within a text counts."""
KEPT = 1 << 16
"""Hashes of a sketch: up to so many distinct n-grams are counted exactly, more with a standard error of 0.4 %."""
FREQUENT = 20_000
"""Frequent n-grams remembered from one batch to the next."""
BINS = 20
WORST, LEAST = 5, 16
"""Worst rows kept, and n-grams that a row must have to be one of them."""
_STEP = np.uint64(0x9E3779B97F4A7C15)


@dataclass
class Distinct:
    """The number of distinct values: the least of their hashes (KMV, Bar-Yossef et al. 2002)."""

    total: int = 0
    least: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))

    def add(self, hashes: Hashes) -> None:
        """Add values by their hashes [N]."""
        self.total += len(hashes)
        if len(self.least) == KEPT:
            hashes = hashes[hashes < self.least[-1]]
        if len(hashes):
            self.least = np.unique(np.concatenate([self.least, hashes]))[:KEPT]

    @property
    def number(self) -> float:
        """Return how many there are: exactly below `KEPT`, else about."""
        if len(self.least) < KEPT:
            return float(len(self.least))
        return min(float(self.total), (KEPT - 1) * 2.0**64 / float(self.least[-1]))

    @property
    def share(self) -> float | None:
        """Return distinct values per value; None without any."""
        return self.number / self.total if self.total else None


@dataclass(frozen=True, slots=True, order=True)
class Repetitive:
    """A row that repeats itself; ordered by the share of its n-grams that occur in it before, and then by their number."""

    share: float
    ngrams: int
    order: int
    row_id: str
    sample: int
    text: str


@dataclass
class Phrases:
    """What was found so far.

    Attributes:
        distinct: n → distinct n-grams of all texts.
        shares: Number of texts per bin of the share of repeated n-grams [BINS].
        texts: Texts with such an n-gram.
        share_sum: Sum of those shares.
        worst: The worst rows, as a heap.
    """

    distinct: dict[int, Distinct] = field(default_factory=lambda: {n: Distinct() for n in SIZES})
    shares: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    texts: int = 0
    share_sum: float = 0.0
    worst: list[Repetitive] = field(default_factory=list)
    _order: int = 0
    _keys: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))
    _counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    _examples: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, REPEATED), np.int64))

    def add(self, batch: Batch, ids: Lists) -> None:
        """Add the texts of a batch by their token ids."""
        for n, hashes, starts in ngrams(ids, SIZES):
            self.distinct[n].add(hashes)
            if n == REPEATED and len(hashes):
                self._add_repeated(batch, ids, hashes, starts)
                self._add_frequent(ids, hashes, starts)

    def frequent(self, most: int) -> list[tuple[tuple[int, ...], int]]:
        """Return the most frequent n-grams that occur more than once: token ids, and how often they came at least."""
        order = np.lexsort((self._keys, -self._counts))[:most]
        return [(tuple(self._examples[i].tolist()), int(self._counts[i])) for i in order if self._counts[i] > 1]

    def _add_repeated(self, batch: Batch, ids: Lists, hashes: Hashes, starts: npt.NDArray[np.int64]) -> None:
        owner = ids.owner[starts]
        rows = len(ids.lengths)
        totals = np.bincount(owner, minlength=rows)
        _, first = np.unique(hashes ^ mixed(owner.astype(np.uint64) + np.uint64(1)), return_index=True)
        distinct = np.bincount(owner[first], minlength=rows)
        counted = np.flatnonzero(totals)
        shares = 1.0 - distinct[counted] / totals[counted]
        self.texts += len(counted)
        self.share_sum += float(shares.sum())
        self.shares += np.bincount(np.minimum((shares * BINS).astype(np.int64), BINS - 1), minlength=BINS)
        floor = self.worst[0].share if len(self.worst) == WORST else 0.0
        for at in np.flatnonzero((shares > floor) & (totals[counted] >= LEAST)).tolist():
            row = batch.rows.slice(int(counted[at]), 1).to_pylist()[0]
            found = Repetitive(
                float(shares[at]), int(totals[counted[at]]), -self._order, str(row["row_id"]), row.get("sample_index", 0),
                row.get("text") or "",
            )  # fmt: skip
            self._order += 1
            (heapq.heappush if len(self.worst) < WORST else heapq.heappushpop)(self.worst, found)

    def _add_frequent(self, ids: Lists, hashes: Hashes, starts: npt.NDArray[np.int64]) -> None:
        keys, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        examples = np.stack([ids.values[starts[first] + k] for k in range(REPEATED)], axis=1).astype(np.int64)
        merged, place, inverse = np.unique(np.concatenate([self._keys, keys]), return_index=True, return_inverse=True)
        total = np.bincount(inverse, weights=np.concatenate([self._counts, counts])).astype(np.int64)
        self._keys, self._counts = merged, total
        self._examples = np.concatenate([self._examples, examples])[place]
        if len(total) > FREQUENT:
            kept = np.sort(np.lexsort((merged, -total))[:FREQUENT])
            self._keys, self._counts, self._examples = merged[kept], total[kept], self._examples[kept]


def mixed(values: Hashes) -> Hashes:
    """Return hashes [N]: the finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        values = values + _STEP
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def ngrams(ids: Lists, sizes: tuple[int, ...]) -> Iterator[tuple[int, Hashes, npt.NDArray[np.int64]]]:
    """Yield (n, hashes [M] of all n-grams within rows, where they start [M]), n from 1 to the greatest of `sizes`."""
    values = mixed(ids.values.astype(np.int64).astype(np.uint64))
    hashes, starts = values, np.arange(len(values))
    for n in range(1, max(sizes) + 1):
        if n > 1:
            inside = starts + (n - 1) < len(values)
            hashes, starts = hashes[inside], starts[inside]
            inside = ids.owner[starts] == ids.owner[starts + (n - 1)]
            hashes, starts = hashes[inside], starts[inside]
            with np.errstate(over="ignore"):
                hashes = mixed(hashes * _STEP + values[starts + (n - 1)])
        if n in sizes:
            yield n, hashes, starts
