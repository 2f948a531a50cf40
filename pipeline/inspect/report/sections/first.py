"""The first screen: the verdict, the figures, what to look at, the origin, and the command that makes the output again."""

from __future__ import annotations

from typing import Any

from pipeline.inspect.page.elements import Markup, code, facts, note, tiles
from pipeline.inspect.page.text import shown
from pipeline.inspect.report.sections.origin import brief
from pipeline.inspect.report.subject import Subject
from pipeline.inspect.report.verdict import findings, verdict
from pipeline.inspect.report.wording import length, percent


def head(subject: Subject) -> str:
    """Return what stands first."""
    notes = "".join(note(f.kind, f.text) for f in findings(subject))
    again = subject.origin.command
    return (
        f'<p class="verdict">{shown(verdict(subject))}</p>{_tiles(subject)}<div class="notes">{notes}</div>'
        f"{facts(brief(subject))}" + (code(again) if again is not None else "")
    )


def title(subject: Subject) -> str:
    """Return the page's title."""
    model = subject.origin.model
    what = "generations" if subject.generated else "scores"
    return f"{subject.measured.tally.completions:,} {what}" + (f" by {model}" if model else "")


def _tiles(subject: Subject) -> Markup:
    tally, rate, seconds, predicted = subject.measured.tally, subject.rate, subject.seconds, subject.prediction
    made = "completions" if subject.generated else "output rows"
    samples = f"{tally.completions:,} {made}" if tally.completions != tally.rows else ""
    there = f"{tally.rows:,} of them are there" if tally.rows != subject.rows else samples
    rows: list[tuple[str, object, object]] = [
        ("Rows", f"{subject.rows:,}", there),
        ("Errors", f"{subject.errors:,}", percent(subject.errors / tally.completions) if tally.completions else ""),
        _tokens(subject),
        ("Time", length(seconds), _beside(seconds, None if predicted is None else predicted.seconds, length)),
        ("Tokens per second", "not known" if rate is None else f"{rate:,.0f}",
         _beside(rate, None if predicted is None else predicted.tokens_per_second, lambda v: f"{v:,.0f}")),
    ]  # fmt: skip
    limit = predicted.limit_tokens_per_second if predicted is not None else None
    if limit and rate is not None:
        rows.append(("Of the machine's limit", percent(rate / limit), f"which is {limit:,.0f} tokens/s for this job"))
    figures = subject.manifest.figures if subject.manifest is not None else {}
    rows += [(name.replace("_", " ").capitalize(), f"{value:.6g}", "") for name, value in figures.items()]
    return tiles(rows)


def _tokens(subject: Subject) -> tuple[str, object, object]:
    """Return what was generated, or what was scored: of a whole text, not its first token."""
    tally, manifest = subject.measured.tally, subject.manifest
    if subject.generated:
        return "Tokens generated", f"{tally.completion_tokens:,}", f"{tally.prompt_tokens:,} of prompts"
    sums = manifest.totals.sums if manifest is not None else {}
    if "scored_tokens" not in sums:
        return "Tokens of texts", f"{tally.completion_tokens:,}", ""
    return "Tokens scored", f"{sums['scored_tokens']:,.0f}", f"of {tally.completion_tokens:,}"


def _beside(actual: float | None, predicted: float | None, write: Any) -> str:
    """Return what was predicted and how far off it was."""
    if predicted is None or actual is None:
        return ""
    off = f", {abs(actual / predicted - 1):.0%} {'more' if actual > predicted else 'less'}" if predicted > 0 else ""
    return f"{write(predicted)} predicted{off}"
