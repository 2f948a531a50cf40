"""Checks the sampling kernels on this GPU, by a quick trial when a model is loaded."""

from __future__ import annotations

import math

import torch

from pipeline.engine.gpu.sampler import choose_tokens, measure_tokens, top_tokens
from pipeline.engine.gpu.trial import passes
from pipeline.engine.plain.sampler import SamplingRows, sample_by_torch

ROWS, COPIES, TOP = 16, 4, 5
BORDERS = 1
"""Rows for which rounding may decide for another token."""


def kernels_are_right(vocab_size: int, device: torch.device) -> bool:
    """Whether they agree with torch in float64, and give a row the same bits in any company.

    Raises:
        ModelRefused: If they lose the device; see `passes`.
    """

    def right() -> bool:
        logits, rules = _trial(vocab_size)
        found = _bits(logits, rules, device)
        return found is not None and _agrees(logits, rules, found)

    return passes("sampling", device, right)


def _trial(vocabulary: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits [ROWS, V], flat to peaked, some with ties or masks; tokens and the parameters of `choose_tokens`, [ROWS] each."""
    draw, row = torch.Generator().manual_seed(1), torch.arange(ROWS)
    logits = torch.randn(ROWS, vocabulary, generator=draw) * torch.linspace(0.1, 8, ROWS)[:, None]
    logits[1::4] = (logits[1::4] * 4).round() / 4
    logits[2::4, : vocabulary // 2] = -torch.inf
    rules = [
        torch.randint(vocabulary, (ROWS,), generator=draw), row % 8 == 7, torch.tensor([0.7, 1.0, 1.6])[row % 3],
        torch.tensor([1.0, 0.9, 0.5])[row // 2 % 3], torch.tensor([-torch.inf, math.log(0.02)])[row // 3 % 2],
        torch.where(row % 5 < 2, vocabulary, row + 1).clamp(max=vocabulary),
        torch.rand(ROWS, generator=draw, dtype=torch.float64),
    ]  # fmt: skip
    return logits, rules


def _bits(logits: torch.Tensor, rules: list[torch.Tensor], device: torch.device) -> list[torch.Tensor] | None:
    """Return the kernels' results for the rows, or None if these depend on the rows' number, neighbours or index."""
    vocabulary = logits.shape[1]
    several = torch.cat([logits.roll(i, 0) for i in range(COPIES)])
    rules = [torch.cat([rule.roll(i, 0) for i in range(COPIES)]).to(device) for rule in rules]
    # as rows lie that fill their tensor, and as they lie where four logits are read at once
    tight = several.to(device)
    padded = torch.full((len(several), vocabulary + -vocabulary % 4), torch.nan, device=device)[:, :vocabulary]
    padded.copy_(several)
    whole = _run(padded, rules)
    parts = [(tight, 0, len(several)), (tight, 3, 7), (padded, 0, 1), (padded, 5, 2), (padded, ROWS + 1, 7)]
    for place, first, count in parts:
        part = slice(first, first + count)
        found = _run(place[part], [rule[part] for rule in rules])
        if not all(_same(f, w[part]) for f, w in zip(found, whole, strict=True)):
            return None
    for i in range(COPIES):
        if not all(_same(w[i * ROWS : (i + 1) * ROWS].roll(-i, 0), w[:ROWS]) for w in whole):
            return None
    return [w[:ROWS].cpu() for w in whole]


def _run(logits: torch.Tensor, rules: list[torch.Tensor]) -> list[torch.Tensor]:
    """Tokens chosen greedily, whole and truncated, the five measures, the most likely tokens and their logits."""
    ways = [(False, True), (False, False), (True, False)]
    chosen = [choose_tokens(logits, *rules[1:], truncates=cut, all_greedy=greedy) for cut, greedy in ways]
    return [*chosen, *measure_tokens(logits, rules[0]), *top_tokens(logits, min(TOP, logits.shape[1]))]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def _agrees(logits: torch.Tensor, rules: list[torch.Tensor], found: list[torch.Tensor]) -> bool:
    """Whether what the kernels say is so in float64."""
    greedy, whole, truncated, *measures, values, ids = found
    tokens, is_greedy, temperature, top_p, log_min_p, top_k, uniform = rules
    exact = logits.double()
    for chosen, cut in ((whole, False), (truncated, True)):
        rows = SamplingRows(is_greedy, temperature, top_k, top_p, log_min_p, uniform, truncates=cut, all_greedy=False)
        if int((chosen != sample_by_torch(exact, rows)).sum()) > BORDERS:
            return False
    log_p = exact.log_softmax(-1)
    entropies = -(log_p.exp() * log_p.clamp(min=-1000)).sum(-1)
    own = exact.gather(-1, tokens[:, None])
    close = [
        torch.allclose(one.double(), other, rtol=1e-5, atol=1e-5)
        for one, other in zip(measures, (exact.amax(-1), exact.logsumexp(-1) - exact.amax(-1), entropies), strict=False)
    ]
    order = logits.sort(dim=-1, descending=True, stable=True)
    return (
        all(close) and torch.equal(greedy, logits.argmax(-1)) and torch.equal(measures[3], (exact > own).sum(-1) + 1)
        and torch.equal(measures[4], logits.isfinite().all(-1)) and torch.equal(values, order.values[:, : ids.shape[1]])
        and torch.equal(ids, order.indices[:, : ids.shape[1]])
    )  # fmt: skip
