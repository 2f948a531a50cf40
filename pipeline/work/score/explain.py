"""Finds out why a figure is not the published one: what it is along each axis on which published figures differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from pipeline.work.score.benchmark import Compared
from pipeline.work.score.config import ScoreConfig

UNIT = "unit of division"
LAST = "last token or last word"


@dataclass(frozen=True, slots=True)
class Variant:
    """The same texts scored in another way.

    Attributes:
        axis: What differs.
        what: How.
        config: The configuration that does it.
    """

    axis: str
    what: str
    config: ScoreConfig


@dataclass(frozen=True, slots=True)
class Found:
    """A figure under a variant, beside the one that was expected.

    Attributes:
        axis: What differs.
        what: How.
        due: The figure that was expected.
        taken: The figure that was taken for it: the same, or another unit of division.
        value: Its value.
        good: Whether it is as expected.
    """

    axis: str
    what: str
    due: str
    taken: str
    value: float
    good: bool

    @property
    def name(self) -> str:
        """The figure, with the unit that was taken where that is another one."""
        return self.due if self.taken == self.due else f"{self.due} as {self.taken}"

    @property
    def single(self) -> bool:
        """Whether one thing is changed, not the unit of division besides another."""
        return self.axis == UNIT or self.taken == self.due

    def __str__(self) -> str:
        """Return the line that says that this is as expected."""
        if self.axis == UNIT:
            return f"the expected {self.due} is the {self.taken} of this run ({self.value:.6g}): another {UNIT}"
        more = "" if self.single else f" and another {UNIT}"
        return f"the expected figure is that with {self.axis}: {self.what}{more} ({self.name} {self.value:.6g})"


def variants(config: ScoreConfig, context: int) -> Iterator[Variant]:
    """Yield what has to be scored anew, one thing changed at a time.

    Args:
        config: The run whose figure is off.
        context: Tokens that the model reads at once.
    """
    score, source, model = config.score, config.source, config.model
    if not source.paired:
        used = score.detokenize or {"wikitext": "wiki", "ptb": "ptb"}.get(source.task or "", "none")
        for name in ("none", "wiki", "ptb"):
            if name != used:
                yield Variant("de-tokeniser", name, replace(config, score=replace(score, detokenize=name)))
        if score.windows != "rolling":
            changed = replace(score, windows="rolling", stride=None)
            yield Variant("stride and context", "rolling windows", replace(config, score=changed))
        for stride in (context, context // 2, context // 16):
            if stride >= 1 and (score.windows, score.stride or context // 2) != ("sliding", stride):
                changed = replace(score, windows="sliding", stride=stride)
                yield Variant("stride and context", f"sliding, stride {stride}", replace(config, score=changed))
        if context // 2 >= 2:
            shorter = replace(config.engine, max_model_len=context // 2)
            halved = replace(score, stride=None if score.stride is None else min(score.stride, context // 2))
            yield Variant(
                "stride and context", f"context {context // 2}", replace(config, engine=shorter, score=halved)
            )
        what = "unscored" if score.bos else "after the beginning-of-text token"
        yield Variant("first token", what, replace(config, score=replace(score, bos=not score.bos)))
    for path in config.explain_sources:
        yield Variant("version of the text", path, replace(config, source=replace(source, path=path)))
    if model.quantization != "none":
        exact = replace(model, quantization="none")
        yield Variant("precision", "quantization none", replace(config, model=exact))
    if model.kv_cache_dtype != "auto":
        exact = replace(model, kv_cache_dtype="auto")
        yield Variant("precision", "kv_cache_dtype auto", replace(config, model=exact))
    for dtype in ("float32", "bfloat16"):
        if dtype != model.dtype and not (
            dtype == "float32" and model.dtype == "auto" and not config.cluster.gpus_per_replica
        ):
            yield Variant("precision", dtype, replace(config, model=replace(model, dtype=dtype)))


def units(sums: Mapping[str, float], figures: Mapping[str, float]) -> dict[str, float]:
    """Return the figures of a run, and those that others have divided by another unit.

    Args:
        sums: The run's sums.
        figures: Its figures.
    """
    loss, tokens = sums.get("negative_log_likelihood", 0.0), sums.get("scored_tokens", 0.0)
    more = (
        {}
        if not tokens or {"questions", "endings"} & sums.keys()
        else {"bits per token": loss / (tokens * math.log(2))}
    )
    return {**figures, **more}


def found_under(axis: str, what: str, figures: Mapping[str, float], off: Sequence[Compared]) -> list[Found]:
    """Return the figures that are off as they are under a variant, and those of other units that are as expected.

    Args:
        axis: What differs.
        what: How.
        figures: The variant's figures, in all units.
        off: The figures that are off.
    """
    found = []
    for due in off:
        for name, value in figures.items():
            good = due.low <= value <= due.high and _alike(due.name, name)
            if name == due.name or good:
                found.append(Found(axis, what, due.name, name, value, good))
    return found


def last_tokens(rows: Iterator[pa.RecordBatch]) -> dict[str, float]:
    """Return perplexity and accuracy of the last token of each text alone, where tokens have log-probabilities and ranks."""
    likelihoods, first, count = list[float](), 0, 0
    for batch in rows:
        for row in batch.to_pylist():
            if row.get("token_logprobs") and row["token_logprobs"][-1] is not None:
                likelihoods.append(row["token_logprobs"][-1])
                first += bool(row.get("token_ranks")) and row["token_ranks"][-1] == 1
                count += 1
    if not count:
        return {}
    return {"text_perplexity": float(np.exp(-np.mean(likelihoods))), "greedy_accuracy": first / count}


def _alike(one: str, other: str) -> bool:
    """Whether figures are of the same kind: an accuracy is never a perplexity by another unit."""
    return ("accuracy" in one) == ("accuracy" in other)


def explained(found: Sequence[Found]) -> list[str]:
    """Return the lines of a table, and what each figure is off by.

    Two things that are changed at once explain a figure only where no single one does.
    """
    alone = {f.due for f in found if f.good and f.single}
    shown = [f for f in found if f.single or f.due not in alone]
    head = ("axis", "what", "figure", "value", "")
    rows = [(f.axis, f.what, f.name, f"{f.value:.6g}", "as expected" if f.good else "") for f in shown]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(5)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)]
    lines += [str(f) for f in shown if f.good]
    unexplained = dict.fromkeys(f.due for f in shown if f.due not in {g.due for g in shown if g.good})
    return lines + [
        f"none of these alone gives the expected {due}: the text or the model differs, or several of them do"
        for due in unexplained
    ]
