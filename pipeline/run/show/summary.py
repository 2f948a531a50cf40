"""Prints what came of a run: figures, errors by code, a sample or two, and a command that shows the output."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from pipeline.output.counts import Counts
from pipeline.types import FinishReason
from pipeline.wording import counted, duration, plain


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What came of a run.

    Attributes:
        path: The output folder or URI.
        exit_code: How it ended; 0 is complete.
        rows: Input rows in committed parts, of `rows_total` planned ones.
        rows_total: Input rows planned.
        completions: Output rows, those of errors included.
        prompt_tokens: Tokens of all prompts.
        completion_tokens: Tokens generated.
        tokens_per_second: Generated tokens a second; null if nothing was generated now.
        wall_seconds: From start to end.
        errors: Error code → number of rows.
        samples: A few prompts and what was generated from them.
        totals: How completions ended, and how long they are.
    """

    path: str
    exit_code: int
    rows: int
    rows_total: int
    completions: int
    prompt_tokens: int
    completion_tokens: int
    tokens_per_second: float | None
    wall_seconds: float
    errors: Mapping[str, int] = field(default_factory=dict)
    samples: Sequence[tuple[str, str]] = ()
    totals: Counts = field(default_factory=Counts)


WIDTH = 100
"""Columns of a sample's line where it is no terminal."""
_ENDINGS = {
    0: ("complete", "green"),
    3: ("complete, but more rows are errors than max_error_rate allows", "yellow"),
    75: ("stopped early; the same command goes on from there", "yellow"),
    130: ("interrupted; the same command goes on from there", "yellow"),
    143: ("terminated; the same command goes on from there", "yellow"),
}


def summary(result: RunSummary, *, stream: TextIO | None = None, console: Console | None = None) -> None:
    """Print what came of a run: figures, errors by code, a sample or two, and a command that shows the output.

    Args:
        result: The figures.
        stream: Where to print; standard error unless given.
        console: In place of a console on `stream`.
    """
    out = (
        console if console is not None else Console(file=stream if stream is not None else sys.stderr, highlight=False)
    )
    meaning, colour = _ENDINGS.get(result.exit_code, (f"failed (exit code {result.exit_code})", "red"))
    for prompt, text in list(result.samples)[:2]:
        _print(out, _sample(prompt, text, out.width if out.is_terminal else WIDTH))
    if result.samples:
        out.print()
    _print(out, Text.assemble((meaning, f"bold {colour}"), "  ", plain(result.path)))
    rows = f"{result.rows:,}" if result.rows == result.rows_total else f"{result.rows:,} of {result.rows_total:,}"
    rate = "" if result.tokens_per_second is None else f", {result.tokens_per_second:,.0f} tokens/s"
    figures = {
        "rows": f"{rows}, {counted(result.completions, 'completion')}",
        "tokens": f"{result.completion_tokens:,} generated{rate}, {result.prompt_tokens:,} of prompts",
        **_endings(result.totals, result.completion_tokens),
        "time": duration(result.wall_seconds),
        "errors": ", ".join(f"{n:,} {code}" for code, n in sorted(result.errors.items(), key=lambda e: (-e[1], e[0]))),
    }
    for name, value in figures.items():
        _print(out, Text.assemble((f"  {name:<8}", "dim"), plain(value) or "none"))
    for line in warnings(result.totals):
        _print(out, Text.assemble(("  warning ", "yellow"), line))
    if result.rows:
        _print(out, Text.assemble(("  look    ", "dim"), look_command(result)))


def _endings(totals: Counts, tokens: int) -> dict[str, str]:
    """Which completions ended how, and how long they are."""
    if not totals.finish_reasons:
        return {}
    shown = {"ends": ", ".join(f"{reason} {n:,}" for reason, n in totals.finish_reasons.items())}
    made = totals.completions - totals.finish_reasons.get(FinishReason.ERROR, 0)
    if made:
        shortest, longest = totals.lengths["shortest"], totals.lengths["longest"]
        shown["lengths"] = f"{shortest:,} to {longest:,} tokens, {tokens / made:,.1f} on average"
    return shown


def warnings(totals: Counts) -> list[str]:
    """What may not have come out as it was meant."""
    told = []
    if totals.completions and totals.finish_reasons.get(FinishReason.ERROR) == totals.completions:
        told.append("every row is an error; with max_error_rate=0.5, say, that is exit code 3")
    if totals.cut_off:
        told.append(f"{counted(totals.cut_off, 'completion')} that should follow a schema, regex or choice ended by length: "
                    "cut off before the end; raise sampling.max_tokens")  # fmt: skip
    if totals.clamped_rows:
        told.append(f"the context left less than sampling.max_tokens for {counted(totals.clamped_rows, 'row')}")
    return told


def look_command(result: RunSummary) -> str:
    """Return a shell command that shows the output's first rows, or its errors when there are too many."""
    return f"promptmill look {shlex.quote(result.path)}" + (" --errors" if result.exit_code == 3 else "")


def _print(out: Console, text: Text) -> None:
    """Print without breaking lines, so that a path or a command can be copied."""
    out.print(text, soft_wrap=True)


def _sample(prompt: str, text: str, width: int) -> Text:
    """The end of a prompt and the beginning of what follows it, on one line."""
    before = fitted(prompt, max(8, width // 3), tail=True)
    return Text.assemble((before, "dim"), (" → ", "cyan"), fitted(text, max(8, width - cell_len(before) - 3)))


def fitted(text: str, limit: int, *, tail: bool = False) -> str:
    """Fit a text into so many columns of one line: its beginning, or its end."""
    # Not `wording.shortened`: that counts characters, of which many take two columns of a terminal.
    flat = plain(" ".join(text.split()))
    if cell_len(flat) <= limit:
        return flat
    if tail:
        return "…" + set_cell_size(flat[::-1], limit - 1).rstrip()[::-1]
    return set_cell_size(flat, limit - 1).rstrip() + "…"
