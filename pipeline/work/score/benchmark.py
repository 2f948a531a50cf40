"""Compares the figures of a run with those that were published or are expected."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from pipeline.output.scores.names import FIGURES
from pipeline.sampling import require

STATUSES = ("reproduced", "paper")
RELATIVE = 1e-3
"""Tolerance of a perplexity or of bits per byte."""


@dataclass(kw_only=True)
class BenchmarkConfig:
    """Which benchmark a preset sets up, and what was published about it.

    `published` maps a model, the last part of its path, to its figures: a number, or [lowest, highest]. `status` says whether a
    public script stands behind them (`reproduced`) or only a paper.
    """

    name: str | None = field(default=None, metadata={"help": "the benchmark's name; presets set it"})
    status: str | None = field(
        default=None,
        metadata={"help": "reproduced: a public script gives the published figures; paper: only a paper does"},
    )
    sources: list[str] = field(default_factory=list, metadata={"help": "where the published figures stand"})
    published: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "model → figure → number or [lowest,highest], such as {gpt2:{perplexity:29.94}}"},
    )

    def __post_init__(self) -> None:
        """Check every field."""
        require(self.status is None or self.status in STATUSES, "status", self.status, "one of " + ", ".join(STATUSES))
        for model, figures in self.published.items():
            check_expected(figures, f"published.{model}")

    def expected_of(self, model: str) -> Mapping[str, Any]:
        """Return the published figures of a model; none if there are none."""
        found: Mapping[str, Any] = self.published.get(PurePath(model).name, {})
        return found


def check_expected(figures: Any, key: str) -> None:
    """Refuse expectations that are not figures with a number or a range.

    Raises:
        ValueError: If they are not.
    """
    require(isinstance(figures, Mapping), key, figures, "a mapping of figures to numbers, such as {perplexity:29.94}")
    for name, value in figures.items():
        require(name in FIGURES, f"{key}.{name}", value, "under the name of a figure: " + ", ".join(FIGURES))
        pair = value if isinstance(value, list | tuple) else [value]
        most = 1.0 if "accuracy" in name else sys.float_info.max
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= most for v in pair)
        require(
            numbers and (pair is not value or (len(pair) == 2 and pair[0] <= pair[1])), f"{key}.{name}", value,
            ("a share from 0 to 1, such as 0.31," if most == 1 else "a number from 0") + " or [lowest,highest]",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Compared:
    """A figure beside what is expected of it.

    Attributes:
        name: The figure.
        found: What it is; None: the run has no such figure.
        low: Lowest value that is as expected.
        high: Highest.
        said: The expectation, as it was said.
    """

    name: str
    found: float | None
    low: float
    high: float
    said: str

    @property
    def good(self) -> bool:
        """Whether it is as expected."""
        return self.found is not None and self.low <= self.found <= self.high


def compare(figures: Mapping[str, float], sums: Mapping[str, float], expected: Mapping[str, Any]) -> list[Compared]:
    """Compare figures with expectations.

    A number is met within 0.1 %, an accuracy within one answer and the rounding of the number.

    Args:
        figures: Those of the run.
        sums: Its sums, which have the number of answers.
        expected: Figure → number, or [lowest, highest].
    """
    found = []
    for name, value in expected.items():
        if isinstance(value, list | tuple):
            low, high, said = float(value[0]), float(value[1]), f"{value[0]:g} to {value[1]:g}"
        elif "accuracy" in name:
            slack = 1 / max(1.0, sums.get("questions") or sums.get("texts", 0.0)) + _rounding(value)
            low, high, said = value - slack, value + slack, f"{value:g} ± {slack:.2g}"
        else:
            low, high, said = value * (1 - RELATIVE), value * (1 + RELATIVE), f"{value:g} ± {RELATIVE:.1%}"
        found.append(Compared(name, figures.get(name), low, high, said))
    return found


def table(compared: Sequence[Compared]) -> list[str]:
    """Return the lines of a table of figures beside their expectations."""
    head = ("figure", "found", "expected", "")
    rows = [
        (c.name, "none" if c.found is None else f"{c.found:.6g}", c.said, "as expected" if c.good else f"OFF{_by(c)}")
        for c in compared
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(4)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]


def _by(compared: Compared) -> str:
    if compared.found is None:
        return ": the run has no such figure"
    nearest = compared.low if compared.found < compared.low else compared.high
    return f" by {compared.found - nearest:+.3g}"


def _rounding(value: float) -> float:
    """Return half a unit of the last digit that a number was said with."""
    return 0.5 * 10.0 ** -len(f"{value!r}".partition(".")[2])
