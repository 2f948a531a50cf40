"""The section on the texts: how long they are and how they end, what they repeat, and samples that are alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.inspect.page.elements import Markup, figure, grid, note, paragraph, quotation, table
from pipeline.inspect.page.plots import BAD, MUTED, S1, S2, S4, svg
from pipeline.inspect.page.shell import Section
from pipeline.inspect.page.text import isolated
from pipeline.inspect.report.measure.phrases import BINS, KEPT, REPEATED, SIZES
from pipeline.inspect.report.measure.twins import LAGS, NEAR
from pipeline.inspect.report.subject import Subject
from pipeline.inspect.report.wording import percent

_COLOURS = {"stop": S1, "length": S2, "error": BAD, "scored": S4}
_FREQUENT = 8
_CHARACTERS = 600
_SHOWN = 0.15
"""Least share of repeated n-grams of a text that is shown for it."""
_TIGHT = 40
"""Most bins of a histogram of lengths."""


def section(subject: Subject) -> Section:
    """Return the section."""
    if not subject.measured.tally.completions:
        return Section("texts", "Texts", note("info", "No rows: there are no texts."))
    plots = [p for p in (_lengths(subject), _reasons(subject), _repetition(subject), _distinct(subject)) if p]
    return Section("texts", "Texts", Markup(grid(plots) + _frequent_and_worst(subject) + _twins(subject)))


def _lengths(subject: Subject) -> Markup | None:
    lengths = subject.measured.tally.lengths
    longest = max((len(counts) for counts in lengths.values()), default=0)
    if not longest:
        return None
    limit = (
        None if subject.overridden or not subject.generated or not subject.made else int(subject.sampling["max_tokens"])
    )
    width = max(1, -(-longest // _TIGHT))
    stacks = {reason: _binned(counts, width, longest) for reason, counts in lengths.items()}
    bins = len(next(iter(stacks.values())))

    def draw(axes: Any) -> None:
        floor = np.zeros(bins)
        for reason, counts in stacks.items():
            axes.bar(
                (np.arange(bins) + 0.5) * width - 0.5,
                counts,
                0.9 * width,
                bottom=floor,
                color=_COLOURS.get(reason, S4),
                label=reason,
            )
            floor += counts
        if limit is not None and limit < 3 * longest:
            axes.axvline(limit + 0.5, color=MUTED, lw=1.2, ls="--")
            axes.text(limit + 0.5, 1.1 * floor.max(), "max_tokens ", ha="right", va="top", color=MUTED, fontsize=9.5)
        axes.set_ylim(0, max(1.0, floor.max()) * 1.12)
        axes.set_xlabel("tokens of the text")
        axes.set_ylabel("texts")
        if len(stacks) > 1:
            axes.legend(loc="upper left")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value == int(value) else "")

    names = [f"{i * width}" if width == 1 else f"{i * width} to {(i + 1) * width - 1}" for i in range(bins)]
    rows = [[name, *(f"{int(stacks[r][i]):,}" for r in stacks)] for i, name in enumerate(names)]
    total = sum(int((np.arange(len(c)) * c).sum()) for c in lengths.values())
    mean = total / max(1, subject.texts)
    said = f"{mean:.1f} tokens on average." + (
        f" {percent(subject.cut)} were cut off by max_tokens={limit} or the context."
        if limit is not None and subject.cut
        else ""
    )
    return figure(
        "Lengths", svg(draw, "lengths", "Histogram of the lengths of the texts, by how they ended."),
        numbers=table(["tokens", *stacks], rows), note=said,
    )  # fmt: skip


def _binned(counts: npt.NDArray[np.int64], width: int, longest: int) -> npt.NDArray[np.float64]:
    bins = -(-longest // width)
    padded = np.zeros(bins * width)
    padded[: len(counts)] = counts
    return np.asarray(padded.reshape(bins, width).sum(axis=1))


def _reasons(subject: Subject) -> Markup | None:
    """How texts ended, by the length of their prompts."""
    found = subject.measured.tally.by_prompt
    order = [r for r in ("stop", "scored", "length", "error") if r in found] + sorted(set(found) - set(_COLOURS))
    totals = np.asarray(sum(found[r] for r in order))
    classes = np.flatnonzero(totals)
    if not len(classes):
        return None
    names = [_octave(int(c)) for c in classes]

    def draw(axes: Any) -> None:
        floor = np.zeros(len(classes))
        for reason in order:
            share = 100 * found[reason][classes] / totals[classes]
            axes.bar(range(len(classes)), share, 0.72, bottom=floor, color=_COLOURS.get(reason, S4), label=reason)
            floor += share
        axes.set_xticks(range(len(classes)), names)
        axes.set_xlabel("tokens of the prompt")
        axes.set_ylabel("% of rows")
        axes.set_ylim(0, 118)
        axes.set_yticks([0, 25, 50, 75, 100])
        axes.legend(loc="upper center", ncols=4, handlelength=1.2, columnspacing=1.2)

    rows = [[name, *(f"{int(found[r][c]):,}" for r in order)] for name, c in zip(names, classes.tolist(), strict=True)]
    ends = ", ".join(f"{r} {int(found[r].sum()):,}" for r in order)
    return figure(
        "How they end", svg(draw, "reasons", "Stacked bars: how texts ended, by the length of the prompt."),
        numbers=table(["prompt", *order], rows), note=f"{ends}.",
    )  # fmt: skip


def _octave(number: int) -> str:
    if number <= 1:
        return str(number)
    return f"{2 ** (number - 1):,}–{2**number - 1:,}"


def _repetition(subject: Subject) -> Markup | None:
    found = subject.measured.phrases
    if not found.texts:
        return None

    def draw(axes: Any) -> None:
        axes.bar((np.arange(BINS) + 0.5) / BINS * 100, found.shares, 86 / BINS, color=S1)
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, 100)
        axes.set_xlabel(f"% of a text's {REPEATED}-grams that it had before")
        axes.set_ylabel("texts (logarithmic)")

    rows = [[f"{100 * i // BINS} to {100 * (i + 1) // BINS} %", f"{n:,}"] for i, n in enumerate(found.shares.tolist())]
    half = int(found.shares[BINS // 2 :].sum())
    said = (
        f"{percent(found.share_sum / found.texts)} of the {REPEATED}-grams of a text repeat, on average; "
        f"{half:,} of {found.texts:,} texts repeat half of them or more."
    )
    return figure(
        "Repetition within a text", svg(draw, "repetition", f"Histogram of the share of repeated {REPEATED}-grams per text."),
        numbers=table(["repeated", "texts"], rows), note=said,
    )  # fmt: skip


def _distinct(subject: Subject) -> Markup | None:
    found = subject.measured.phrases.distinct
    if not found[1].total:
        return None
    rows = [
        [
            f"{n}-grams",
            f"{d.total:,}",
            ("" if d.number < KEPT else "about ") + f"{d.number:,.0f}",
            f"{d.share or 0:.4f}",
        ]
        for n in SIZES
        if (d := found[n]).total
    ]
    return Markup(
        '<div class="block"><h3>Distinct n-grams of all texts</h3>'
        + paragraph("Of tokens. distinct-n falls as an output grows: compare outputs of one size.")
        + table(["n", "in all", "distinct", "distinct-n"], rows, label="Distinct n-grams")
        + "</div>"
    )


def _frequent_and_worst(subject: Subject) -> Markup:
    found, tokenizer = subject.measured.phrases, subject.origin.tokenizer
    total = max(1, found.distinct[REPEATED].total)
    rows = [[_phrase(ids, tokenizer), f"{count:,}", percent(count / total)] for ids, count in found.frequent(_FREQUENT)]
    blocks = []
    if rows:
        numbers = table(["tokens", "times", "share"], rows, label="Most frequent n-grams")
        blocks.append(f'<div class="block"><h3>Most frequent {REPEATED}-grams of all texts</h3>{numbers}</div>')
    worst = [row for row in sorted(found.worst, reverse=True) if row.share >= _SHOWN]
    if worst:
        texts = "".join(
            f'<p class="of">{isolated(row.row_id, 80)} #{row.sample}: {percent(row.share)} of {row.ngrams:,} '
            f"{REPEATED}-grams repeat</p>{quotation(row.text, _CHARACTERS)}"
            for row in worst
        )
        blocks.append(f'<div class="block"><h3>The texts that repeat themselves most</h3>{texts}</div>')
    return grid(blocks)


def _phrase(ids: tuple[int, ...], tokenizer: Any) -> Markup:
    text = " ".join(f"#{i}" for i in ids) if tokenizer is None else tokenizer.decode(ids, special=True)
    return Markup(f"<code>{isolated(text.replace(chr(10), '⏎'), 80)}</code>")


def _twins(subject: Subject) -> Markup:
    found = subject.measured.twins
    if not found.pairs or not subject.generated:  # texts that are scored under one id are endings, and no samples
        return Markup("")
    greedy = subject.sampling["temperature"] == 0 and not subject.overridden
    kind = "info" if greedy or found.near / found.pairs < 0.05 else "warn"
    compared = f"; each with the {LAGS} that follow it" if subject.sampling["n"] > LAGS else ""
    near = f"{found.near:,} ({percent(found.near / found.pairs)})"
    said = note(
        kind,
        f"Of {found.pairs:,} pairs of samples of one prompt, {near} are nearly the same ({percent(NEAR)} of their 3-grams or "
        f"more in common, estimated by MinHash), {found.equal:,} of them to the last token; {found.prompts_near:,} of "
        f"{found.prompts:,} prompts have such a pair{compared}."
        + (" temperature=0 makes all samples of a prompt the same." if greedy else ""),
    )
    pairs = "".join(
        f'<p class="of">{isolated(pair.row_id, 80)}: #{pair.samples[0]} and #{pair.samples[1]}, {percent(pair.share)} in '
        f'common</p><div class="beside">{quotation(pair.texts[0], _CHARACTERS)}{quotation(pair.texts[1], _CHARACTERS)}</div>'
        for pair in found.examples
    )
    block = f'<div class="block"><h3>Samples that are alike</h3>{said}{pairs}</div>'
    return Markup(f'<div class="stack">{block}</div>')
