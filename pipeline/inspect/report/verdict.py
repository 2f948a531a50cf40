"""The verdict in one sentence, and what is to be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.inspect.report.measure.phrases import BINS
from pipeline.inspect.report.sections.distribution import calibrated, rank_bound
from pipeline.inspect.report.subject import Subject
from pipeline.inspect.report.wording import length, percent

CUT, REPEATS, ALIKE, OFF = 0.3, 0.01, 0.05, 0.25
"""Shares from which something is to be looked at: texts cut off, texts that repeat half of their 4-grams, pairs of samples
that are alike, and how far a prediction was off."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to look at (`warn`), or that is as it should be (`good`)."""

    kind: str
    text: str


def verdict(subject: Subject) -> str:
    """Return one sentence: what became of the job."""
    tally, seconds, rate = subject.measured.tally, subject.seconds, subject.rate
    looks = [f for f in findings(subject) if f.kind == "warn"]
    if subject.manifest is None:
        there = percent(tally.rows / subject.rows) if subject.rows else "0 %"
        state = f"Not finished: {tally.rows:,} of {subject.rows:,} rows are there ({there}),"
    elif subject.incomplete:
        return (
            f"Damaged: of the {subject.rows:,} rows of a complete run, {tally.rows:,} are there; `promptmill verify` says what "
            "is missing, and how to repair it."
        )
    elif not tally.completions:
        return "Complete and empty: the input has no rows."
    elif subject.errors == tally.completions:
        code = max(sorted(tally.errors), key=lambda c: tally.errors[c])
        return f"Complete, and every row is an error: {tally.errors[code]:,} of {tally.completions:,} are {code}."
    elif subject.errors:
        state = f"Complete, {percent(subject.errors / tally.completions)} of the rows are errors:"
    else:
        state = "Complete, without an error:"
    made = f"{tally.completion_tokens:,} tokens" + (f" in {length(seconds)}" if seconds is not None else "")
    limit = subject.prediction.limit_tokens_per_second if subject.prediction is not None else None
    speed = (
        ""
        if rate is None
        else f", {rate:,.0f} per second" + (f" ({percent(rate / limit)} of the limit)" if limit else "")
    )
    follow = {
        True: ", which follow the model's own distribution",
        False: ", which do not follow the model's distribution",
    }
    holds = calibrated(subject)
    number = {1: "one thing asks", 2: "two things ask", 3: "three things ask"}.get(
        len(looks), f"{len(looks)} things ask"
    )
    end = f"; {number} for a look" if looks else ""
    return f"{state} {made}{speed}{'' if holds is None else follow[holds]}{end}."


def findings(subject: Subject) -> list[Finding]:
    """Return what is to be looked at, and what was proven, the former first."""
    found = [*_rows(subject), *_tokens(subject), *_texts(subject), *_run(subject)]
    return [f for f in found if f.kind == "warn"] + [f for f in found if f.kind != "warn"]


def _rows(subject: Subject) -> Iterator[Finding]:
    tally = subject.measured.tally
    if subject.manifest is None:
        working = any(s.stopped is None for s in subject.timeline.sessions)
        how = "a driver is at work, or was killed" if working else "no driver is at work"
        yield Finding(
            "warn",
            f"The output is not finished: {how}. The same command resumes it; this page shows what is committed.",
        )
    if subject.errors:
        codes = ", ".join(f"{n:,} {code}" for code, n in sorted(tally.errors.items(), key=lambda e: (-e[1], e[0])))
        yield Finding("warn", f"{subject.errors:,} of {tally.completions:,} rows are errors: {codes}.")
    totals = subject.manifest.totals if subject.manifest is not None else None
    if totals is not None and totals.clamped_rows:
        yield Finding("warn", f"{totals.clamped_rows:,} prompts leave less of the context than max_tokens asks for.")
    if totals is not None and totals.cut_off:
        yield Finding("warn", f"{totals.cut_off:,} structured texts were cut off, and do not match their grammar.")


def _tokens(subject: Subject) -> Iterator[Finding]:
    found, bound = subject.measured.distribution, rank_bound(subject)
    sums = found.calibration
    figures = f"{sums.difference:+.4f} ± {sums.standard_error:.4f} nats per token"
    holds = calibrated(subject)
    if holds is not None:
        yield (
            Finding("good", f"Calibration: log-probability and entropy agree ({figures}).")
            if holds
            else Finding("warn", f"Calibration does not hold: log-probability and entropy differ by {figures}.")
        )
    if bound is not None and bound > 1 and found.greatest_rank > bound:
        yield Finding("warn", f"top_k={bound} cannot give rank {found.greatest_rank:,}, and there is one.")


def _texts(subject: Subject) -> Iterator[Finding]:
    phrases, twins = subject.measured.phrases, subject.measured.twins
    if subject.generated and subject.cut >= CUT:
        yield Finding(
            "warn",
            f"{percent(subject.cut)} of the texts end at max_tokens or at the end of the context: cut off, not finished.",
        )
    half = int(phrases.shares[BINS // 2 :].sum())
    if phrases.texts and half / phrases.texts >= REPEATS:
        yield Finding("warn", f"{percent(half / phrases.texts)} of the texts repeat half of their 4-grams or more.")
    sampled = subject.generated and (subject.sampling["temperature"] or subject.overridden)
    if sampled and twins.pairs and twins.near / twins.pairs >= ALIKE:
        yield Finding(
            "warn", f"{percent(twins.near / twins.pairs)} of the pairs of samples of one prompt are nearly the same."
        )


def _run(subject: Subject) -> Iterator[Finding]:
    gone = sum(lane.down is not None and bool(lane.reason) for lane in subject.timeline.lanes)
    if gone:
        yield Finding(
            "warn",
            f"{gone:,} {'replica' if gone == 1 else 'replicas'} ended before the run did; their parts were made again.",
        )
    predicted = subject.prediction.seconds if subject.prediction is not None else None
    if predicted and subject.manifest is not None and subject.seconds is not None:
        off = subject.seconds / predicted - 1
        if abs(off) > OFF:
            yield Finding("warn", f"It took {length(subject.seconds)}, where {length(predicted)} were predicted.")
