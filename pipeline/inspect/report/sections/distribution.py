"""The section on how likely the tokens were, beside what the sampling settings allow, and on calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.inspect.page.elements import Markup, figure, grid, note, paragraph, table
from pipeline.inspect.page.plots import INK, MUTED, S1, S2, svg
from pipeline.inspect.page.shell import Section
from pipeline.inspect.page.tokens import COLOURINGS
from pipeline.inspect.report.measure.distribution import ENTROPY_STEP, SHARES
from pipeline.inspect.report.subject import Subject
from pipeline.inspect.report.wording import percent

SIGMAS = 3.0
"""Standard errors within which a difference is taken for chance: 1 in 370 is beyond."""


def section(subject: Subject) -> Section:
    """Return the section."""
    found = subject.measured.distribution
    if not found.tokens:
        body = note("info", "No tokens: there is no distribution to show.")
        return Section("distribution", "Distribution", body)
    plots = [p for p in (_ranks(subject), _relative(subject), _entropies(subject), _reliability(subject)) if p]
    if not plots:
        body = note("info", "This output has no statistics (stats.columns=[]): run with stats=default to record them.")
        return Section("distribution", "Distribution", body)
    plain = ", before temperature, penalties and truncation" if subject.generated else ""
    which = "chosen tokens" if subject.generated else "tokens of the texts"
    intro = paragraph(f"How likely the {which} were under the model's own distribution{plain}.")
    return Section(
        "distribution", "Distribution", Markup(intro + allowed(subject) + calibration(subject) + grid(plots))
    )


def allowed(subject: Subject) -> Markup:
    """Say what the sampling settings allow, and whether that was kept."""
    if not subject.generated:
        return Markup("")
    s, found = subject.sampling, subject.measured.distribution
    if subject.overridden:
        return note("info", "Rows have their own sampling parameters, so no bound holds for all of them.")
    lines = []
    bound = rank_bound(subject)
    if bound is not None and found.greatest_rank:
        how = "temperature=0 takes" if bound == 1 else f"top_k={bound} allows"
        kept = found.greatest_rank <= bound
        lines.append(note(
            "good" if kept else "warn",
            f"{how} rank {bound:,} at most; the greatest rank is {found.greatest_rank:,}"
            + ("." if kept else ", which should not happen unless tokens are equally likely."),
        ))  # fmt: skip
    if s["min_p"] and s["temperature"] and not subject.changing and found.relative.any():
        least = s["temperature"] * math.log(s["min_p"])
        kept = found.least_relative >= least - 0.01
        lines.append(note(
            "good" if kept else "warn",
            f"min_p={s['min_p']:g} at temperature={s['temperature']:g} allows {math.exp(least):.2g} of the most likely "
            f"token's probability; the least is {math.exp(found.least_relative):.2g}.",
        ))  # fmt: skip
    if s["top_p"] < 1:
        lines.append(
            note("info", f"top_p={s['top_p']:g} cuts the tail off by its mass: it bounds no rank and no probability.")
        )
    if subject.changing:
        lines.append(note("info", f"{', '.join(subject.changing)}: move probabilities before the choice is made."))
    return Markup("".join(lines))


def rank_bound(subject: Subject) -> int | None:
    """Return the greatest rank that the settings allow; None if they allow any."""
    if not subject.generated or subject.overridden or not subject.made or subject.changing:
        return None
    if subject.sampling["temperature"] == 0:
        return 1
    return subject.sampling["top_k"] or None


def calibration(subject: Subject) -> Markup:
    """Hold the mean log-probability against the mean entropy."""
    sums = subject.measured.distribution.calibration
    if not sums.tokens or not subject.generated:
        return Markup("")
    logprob, entropy = sums.logprob / sums.tokens, sums.entropy / sums.tokens
    figures = (
        f"mean log-probability {logprob:.4f}, minus mean entropy {-entropy:.4f}: "
        f"they differ by {sums.difference:+.4f} ± {sums.standard_error:.4f} nats per token"
    )
    why = subject.uncalibrated()
    if why is not None:
        return note("info", f"Calibration: {figures}. They need not agree: {why}.")
    if calibrated(subject):
        return note("good", f"Calibration holds: {figures}, as sampling from the model's own distribution must give.")
    return note("warn", f"Calibration does not hold: {figures}. At temperature 1 without truncation they must agree.")


def calibrated(subject: Subject) -> bool | None:
    """Whether the tokens follow the distribution, within `SIGMAS`; None where they need not, or it was not measured."""
    sums = subject.measured.distribution.calibration
    if not sums.tokens or subject.uncalibrated() is not None:
        return None
    return abs(sums.difference) <= max(SIGMAS * sums.standard_error, 1e-5)


def _ranks(subject: Subject) -> Markup | None:
    counts = subject.measured.distribution.ranks
    if not counts.any():
        return None
    names = COLOURINGS[0][2]
    bound = rank_bound(subject)
    shares = counts / counts.sum()

    def draw(axes: Any) -> None:
        axes.bar(range(len(names)), 100 * shares, color=S1, width=0.72)
        axes.set_xticks(range(len(names)), names)
        _label(axes, 100 * shares)
        axes.set_xlabel("rank of the chosen token")
        axes.set_ylabel("% of tokens")
        if bound is not None and bound <= 1000:
            edge = next(i for i, most in enumerate((1, 10, 100, 1000)) if bound <= most)
            axes.axvspan(edge + 0.5, len(names) - 0.5, color=MUTED, alpha=0.13, lw=0)
            axes.text(
                edge + 0.56,
                axes.get_ylim()[1] * 0.95,
                "not allowed" if edge < 3 else "not\nallowed",
                va="top",
                color=MUTED,
            )

    most = "" if bound is None else f" The settings allow rank {bound:,} at most."
    return figure(
        "Ranks", svg(draw, "ranks", "Bars: share of tokens by the rank of the chosen token."),
        numbers=table(["rank", "tokens", "share"], _lines(names, counts)),
        note=f"The first choice of the model in {percent(shares[0])} of the tokens.{most}",
    )  # fmt: skip


def _relative(subject: Subject) -> Markup | None:
    found = subject.measured.distribution
    to_best = found.relative.any()
    counts = found.relative if to_best else found.probabilities
    if not counts.any():
        return None
    what = "probability relative to the most likely token's" if to_best else "probability"
    half = percent(counts[SHARES // 2 :].sum() / counts.sum())
    hint = (
        f"The chosen token was at least half as likely as the likeliest in {half} of the tokens."
        if to_best
        else "The likeliest token's own probability is recorded with stats.top_logprobs=1, and gives the ratio of both."
    )
    names = [f"{i / SHARES:.2f} to {(i + 1) / SHARES:.2f}" for i in range(SHARES)]

    def draw(axes: Any) -> None:
        axes.bar((np.arange(SHARES) + 0.5) / SHARES, 100 * counts / counts.sum(), width=0.86 / SHARES, color=S1)
        axes.set_xlabel(what)
        axes.set_ylabel("% of tokens")
        axes.set_xlim(0, 1)

    return figure(
        "Probability beside the most likely" if to_best else "Probability",
        svg(draw, "relative", f"Histogram of the {what}."),
        numbers=table([what, "tokens", "share"], _lines(names, counts)), note=hint,
    )  # fmt: skip


def _entropies(subject: Subject) -> Markup | None:
    found = subject.measured.distribution
    counts = found.entropies[: int(np.flatnonzero(found.entropies).max(initial=-1)) + 1]
    if not len(counts):
        return None
    edges = np.arange(len(counts)) * ENTROPY_STEP
    sums = found.calibration
    mean = sums.entropy / sums.tokens if sums.tokens else None

    def draw(axes: Any) -> None:
        axes.bar(edges + ENTROPY_STEP / 2, 100 * counts / counts.sum(), width=0.86 * ENTROPY_STEP, color=S1)
        axes.set_xlabel("entropy of the distribution at the token, nats")
        axes.set_ylabel("% of tokens")
        axes.set_xlim(left=0)
        if mean is not None:
            axes.axvline(mean, color=S2, lw=1.6, ls="--")
            axes.text(mean, axes.get_ylim()[1], f" mean {mean:.2f}", color=S2, va="top")

    names = [f"{e:.2f} to {e + ENTROPY_STEP:.2f}" for e in edges]
    certain = counts[: int(0.5 / ENTROPY_STEP)].sum() / counts.sum()
    return figure(
        "Entropy", svg(draw, "entropy", "Histogram of the entropy of the model's distribution at each token."),
        numbers=table(["nats", "tokens", "share"], _lines(names, counts)),
        note=f"The model was nearly certain (below half a nat) at {percent(certain)} of the tokens.",
    )  # fmt: skip


def _reliability(subject: Subject) -> Markup | None:
    """Mean surprise against entropy, in bins of the entropy."""
    sums = subject.measured.distribution.calibration
    bins = np.flatnonzero(sums.counts >= 30)
    if not len(bins) or not subject.generated:
        return None
    counts = sums.counts[bins]
    entropy, surprise = sums.entropies[bins] / counts, sums.surprises[bins] / counts
    error = np.sqrt(sums.bin_squares[bins]) / counts
    expected = subject.uncalibrated() is None

    def draw(axes: Any) -> None:
        top = max(float(entropy.max()), float((surprise + 2 * error).max())) * 1.03 + 0.05
        axes.plot([0, top], [0, top], color=MUTED, lw=1.2, ls="--")
        axes.errorbar(
            entropy, surprise, yerr=2 * error, fmt="o", ms=4.5, color=S1 if expected else S2, ecolor=INK, elinewidth=1
        )
        axes.set_xlabel("entropy, nats")
        axes.set_ylabel("mean −log p of the token")
        axes.set_xlim(0, top)
        axes.set_ylim(0, top)

    said = (
        "Each point must lie on the line, within its bar of two standard errors: a token surprises as much as the entropy says."
        if expected
        else f"Points need not lie on the line: {subject.uncalibrated()}."
    )
    rows = [
        [f"{e:.3f}", f"{s:.3f}", f"{d:.3f}", f"{n:,}"]
        for e, s, d, n in zip(entropy, surprise, error, counts.tolist(), strict=True)
    ]
    return figure(
        "Calibration", svg(draw, "reliability", "Points: mean surprise of tokens against the entropy, with the diagonal."),
        numbers=table(["entropy", "mean −log p", "standard error", "tokens"], rows), note=said,
    )  # fmt: skip


def _lines(names: Sequence[str], counts: Any) -> list[list[str]]:
    total = max(1, int(counts.sum()))
    return [[name, f"{n:,}", percent(n / total)] for name, n in zip(names, counts.tolist(), strict=True)]


def _label(axes: Any, values: Any) -> None:
    for at, value in enumerate(values):
        shown = percent(value / 100)
        axes.text(at, value, shown, ha="center", va="bottom", color=INK, fontsize=9.5)
    axes.set_ylim(0, max(float(max(values)) * 1.12, 1e-9))
