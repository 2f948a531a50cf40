"""How long the completions of sampled rows are expected to become."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.engine.calibration.known import Endings
from pipeline.engine.calibration.simulate import Expected
from pipeline.types import PromptRow, Request, SamplingParams
from pipeline.work.estimate.sample import Sample
from pipeline.work.recipe import Recipe

_ELSEWHERE = 1_000_003
"""Added to token ids of a row that stands for another one, times how often it did."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long completions become.

    Attributes:
        max_len: Longest prompt plus generation, tokens.
        endings: How earlier completions of the same model under the same rules ended; None: unknown, so that all become as
            long as they may.
    """

    max_len: int
    endings: Endings | None = None

    def most(self, request: Request) -> int:
        """Return the tokens that a request may generate, or that are scored of it."""
        if request.scored_from is not None:
            return len(request.prompt_token_ids) - request.scored_from
        return max(1, min(request.sampling.max_tokens, self.max_len - len(request.prompt_token_ids)))

    def expected(self, request: Request, number: int) -> int:
        """Return the tokens that it is expected to generate; `number` counts the requests, whose lengths differ."""
        most = self.most(request)
        if request.scored_from is not None:
            return most
        chance = 0.0 if self.endings is None else self.endings.chance
        if not 0 < chance < 1:
            return most if chance <= 0 else 1
        # quantiles of the geometric distribution, in an order in which any few of them are spread evenly
        place = number * 0.6180339887498949 % 1.0
        drawn = math.ceil(math.log1p(-place) / math.log1p(-chance))
        return min(most, max(1, request.sampling.min_tokens, drawn))


def ends_early(sampling: SamplingParams) -> bool:
    """Whether completions may end before `max_tokens`."""
    return not (
        sampling.ignore_eos and not sampling.stop and not sampling.stop_token_ids and sampling.structured is None
    )


def shards_of(
    sample: Sample, recipe: Recipe, lengths: Lengths, rows_per_shard: int, shards: int
) -> Iterator[Sequence[Expected]]:
    """Yield the expected sequences of so many shards, whose rows are those of the sample, again and again."""
    numbers = itertools.count()
    rows = _endless(sample.rows)
    left = sample.total
    for _ in range(shards):
        taken = list(itertools.islice(rows, min(rows_per_shard, left)))
        left -= len(taken)
        requests = [request for row in taken for request in recipe.requests(row)]
        yield [Expected(r, lengths.most(r), lengths.expected(r, next(numbers))) for r in requests]


def _endless(rows: Sequence[PromptRow]) -> Iterator[PromptRow]:
    """Yield the rows forever; from the second round on, tokens that a row does not share with its neighbours become others."""
    if not rows:
        return
    yield from rows
    shared = [max(_common(rows, i, i - 1), _common(rows, i, i + 1)) for i in range(len(rows))]
    for turn in itertools.count(1):
        text: tuple[int, ...] = ()
        moved: tuple[int, ...] = ()
        for row, same in zip(rows, shared, strict=True):
            passages = []
            for passage in (*row.passages, *row.aside):
                if passage.token_ids is not text:  # rows may be stretches of one long text, which is moved once
                    text, moved = passage.token_ids, _moved(passage.token_ids, same, turn)
                passages.append(replace(passage, token_ids=moved))
            count = len(row.passages)
            yield replace(
                row, prompt=None, prompt_token_ids=_moved(row.prompt_token_ids, same, turn),
                passages=tuple(passages[:count]), aside=tuple(passages[count:]),
            )  # fmt: skip


def _moved(ids: tuple[int, ...], same: int, turn: int) -> tuple[int, ...]:
    """Return ids of which all but the first `same` are those of another turn."""
    return (*ids[:same], *(token + turn * _ELSEWHERE for token in ids[same:]))


def _common(rows: Sequence[PromptRow], one: int, other: int) -> int:
    """Return how many first tokens two rows have in common."""
    if not 0 <= other < len(rows):
        return 0
    pairs = zip(rows[one].prompt_token_ids, rows[other].prompt_token_ids, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
