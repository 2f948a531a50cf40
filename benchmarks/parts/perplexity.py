"""The arithmetic of `benchmarks.quality`: windows of a text, perplexity, what a setting changes in it, and the table.

It loads no model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

HEAD = (
    "| setting | perplexity | against float64 | mean absolute difference of a log-probability | kernels |",
    "|---|---:|---:|---:|---|",
)
SHORTEST = 2
"""Tokens of a window in which something is scored: its first token is not."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a setting makes of exact log-probabilities.

    `perplexity` is the setting's. `relative` is its perplexity ÷ the exact one − 1, `error` the standard error of that, tokens
    taken as independent. `apart` is the mean absolute difference of a token's log-probability, in nats: errors of both signs
    cancel in a perplexity, and do not in it.
    """

    perplexity: float
    relative: float
    error: float
    apart: float


def cut(ids: Sequence[int], window: int) -> list[list[int]]:
    """Token ids in windows of `window`; the last is shorter, and is left out if it is too short to score a token."""
    parts = [list(ids[start : start + window]) for start in range(0, len(ids), window)]
    return [part for part in parts if len(part) >= SHORTEST]


def perplexity(logprobs: Sequence[float]) -> float:
    """From log-probabilities in nats: exp of their mean, negated."""
    return math.exp(-math.fsum(logprobs) / len(logprobs))


def compare(found: Sequence[float], exact: Sequence[float]) -> Change:
    """Compare log-probabilities of the same tokens, at least two, in nats.

    The ratio of the perplexities is exp of the mean loss, so its standard error is the ratio times that of the mean.

    Raises:
        ValueError: If they are not as many, or one is not finite, as no perplexity is right then.
    """
    if len(found) != len(exact):
        raise ValueError(f"{len(found)} tokens scored where {len(exact)} were to be")
    if not all(map(math.isfinite, found)):
        raise ValueError("a log-probability is not finite")
    losses = [e - f for f, e in zip(found, exact, strict=True)]
    mean = math.fsum(losses) / len(losses)
    variance = math.fsum((loss - mean) ** 2 for loss in losses) / (len(losses) - 1)
    return Change(
        perplexity=perplexity(found),
        relative=math.expm1(mean),
        error=math.exp(mean) * math.sqrt(variance / len(losses)),
        apart=math.fsum(map(abs, losses)) / len(losses),
    )


def render(result: dict[str, Any]) -> str:
    """The Markdown table of a result of `benchmarks.quality`, with what was measured above and what failed below."""
    return "\n".join([*heading(result), *map(row, result["runs"]), *failures(result)])


def heading(result: dict[str, Any]) -> list[str]:
    """What was measured, and the head of the table with its first row, the oracle's."""
    machine = result["machine"]
    return [
        f"{result['model']}; {result['text']}: {result['scored']} tokens scored in windows of {result['window']}; "
        f"{machine['processor']}, {machine['cores']} cores; {result['date']}",
        "",
        *HEAD,
        f"| transformers float64 | {result['exact']:.4f} | | | |",
    ]


def row(run: dict[str, Any]) -> str:
    """One setting's row; empty cells if it failed."""
    if "error" in run:
        return f"| {run['setting']} | failed | | | |"
    change = Change(**run["change"])
    against = f"{100 * change.relative:+.3f} % ± {100 * change.error:.3f} %"
    kernels = ", ".join(run["facts"]["linear_kernels"])
    return f"| {run['setting']} | {change.perplexity:.4f} | {against} | {change.apart:.1e} | {kernels} |"


def failures(result: dict[str, Any]) -> Iterator[str]:
    """A line for each setting that failed, after an empty one."""
    failed = [run for run in result["runs"] if "error" in run]
    yield from ["", *(f"Failed: {run['setting']}: {run['error']}" for run in failed)] if failed else []
