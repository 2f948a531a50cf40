"""The section on how the run went: throughput, occupancy, a lane per replica, the tail, errors."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from pipeline.inspect.page.elements import Markup, figure, grid, note, quotation, table
from pipeline.inspect.page.plots import BAD, INK, LINE, MUTED, S1, S2, S3, S4, svg
from pipeline.inspect.page.shell import Section
from pipeline.inspect.page.text import isolated, written_out
from pipeline.inspect.report.subject import Subject
from pipeline.inspect.report.timeline import Lane, Timeline, merged, occupancy, rates, tail
from pipeline.inspect.report.wording import length, percent
from pipeline.wording import counted, shortened

_BINS = 60
_LANES = 24
"""Most lanes that are drawn."""
_MARKS = 1500
"""Most commits that are drawn, each as a mark."""
_SPANS = 200
"""Most stretches of a lane: gaps that would not be seen are closed."""
_WIDE = 960


def section(subject: Subject) -> Section:
    """Return the section."""
    timeline = subject.timeline
    if not timeline.sessions or timeline.length <= 0:
        body = note("info", "The output has no event log, so nothing is known of how the run went.")
        return Section("run", "The run", Markup(body + _errors(subject)))
    parts = [*_remarks(timeline), grid([p for p in (_throughput(timeline), _occupancy(timeline)) if p])]
    if timeline.lanes:
        parts.append(grid([_lanes(timeline)]))
    return Section("run", "The run", Markup("".join([*parts, _sessions(timeline), _errors(subject)])))


def _remarks(timeline: Timeline) -> list[Markup]:
    made = []
    if (end := tail(timeline)) is not None:
        who = f", on {end.replica}" if end.replica else ""
        took = f" in {length(end.took)}" if end.took is not None else ""
        busy = f"{end.busy:.1f} of {counted(end.alive, 'replica')} had work" if end.alive else "no replica is known of"
        waste = end.alive > 1 and end.busy < 0.7 * end.alive
        made.append(note(
            "warn" if waste else "info",
            f"The last 5 % of the time ({length(end.seconds)}): {busy}, on average. Last came part {end.shard:,}{took}{who}.",
        ))  # fmt: skip
    first = timeline.sessions[0]
    if first.lanes and (ready := min(lane.up for lane in first.lanes) - first.start) > 0.05 * timeline.length:
        made.append(
            note(
                "info",
                f"{length(ready)} passed before the first replica was ready ({percent(ready / timeline.length)} of the time).",
            )
        )
    down = [lane for lane in timeline.lanes if lane.reason]
    if down:
        made.append(
            note(
                "warn",
                f"{counted(len(down), 'replica')} ended before the run did; the first: {shortened(down[0].reason, 200)}.",
            )
        )
    return made


def _time(timeline: Timeline) -> tuple[float, str]:
    """Return the unit of the axis: seconds in it, and its name."""
    return next(
        ((s, name) for s, name in ((86_400, "days"), (3600, "hours"), (60, "minutes")) if timeline.length > 3 * s),
        (1, "seconds"),
    )


def _throughput(timeline: Timeline) -> Markup | None:
    bins = max(1, min(_BINS, int(timeline.length)))
    made = rates(timeline, bins)
    if not any(made):
        return None
    unit, name = _time(timeline)
    edges = np.linspace(0, timeline.length / unit, bins + 1)

    def draw(axes: Any) -> None:
        axes.stairs(made, edges, fill=True, color=S1, alpha=0.25, lw=0)
        axes.stairs(made, edges, color=S1, lw=1.6)
        _pauses(axes, timeline, unit)
        axes.set_xlabel(f"{name} of work")
        axes.set_ylabel("tokens/s")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, edges[-1])

    rows = [[f"{a:.2f} to {b:.2f}", f"{rate:,.0f}"] for a, b, rate in zip(edges, edges[1:], made, strict=False)]
    best = max(made)
    return figure(
        "Throughput", svg(draw, "throughput", "Tokens per second over the time of the run."),
        numbers=table([name, "tokens/s"], rows), note=f"{best:,.0f} tokens/s at best; all replicas together.",
    )  # fmt: skip


def _occupancy(timeline: Timeline) -> Markup | None:
    bins = max(1, min(_BINS, int(timeline.length)))
    full = occupancy(timeline, bins)
    known = [share for share in full if share is not None]
    if not known:
        return None
    unit, name = _time(timeline)
    edges = np.linspace(0, timeline.length / unit, bins + 1)
    values = [float("nan") if share is None else 100 * share for share in full]

    def draw(axes: Any) -> None:
        axes.stairs(np.nan_to_num(values), edges, fill=True, color=S4, alpha=0.25, lw=0)
        axes.stairs(values, edges, color=S4, lw=1.6)
        _pauses(axes, timeline, unit)
        axes.set_xlabel(f"{name} of work")
        axes.set_ylabel("% of the sequences that fit")
        axes.set_ylim(0, 105)
        axes.set_xlim(0, edges[-1])

    rows = [
        [f"{a:.2f} to {b:.2f}", "not known" if share is None else percent(share)]
        for a, b, share in zip(edges, edges[1:], full, strict=False)
    ]
    return figure(
        "Occupancy", svg(draw, "occupancy", "Running sequences as a share of those that fit, over the time of the run."),
        numbers=table([name, "occupancy"], rows),
        note=f"{percent(sum(known) / len(known))} on average: of the sequences that the engines can run at once, so many ran.",
    )  # fmt: skip


def _pauses(axes: Any, timeline: Timeline, unit: float) -> None:
    for at, _ in timeline.pauses:
        axes.axvline(at / unit, color=MUTED, lw=1.2, ls=":")


def _lanes(timeline: Timeline) -> Markup:
    lanes = timeline.lanes[:_LANES]
    unit, name = _time(timeline)
    several = len(timeline.sessions) > 1
    titles = [
        written_out(shortened(lane.name, 18)) + (f" · driver {lane.driver + 1}" if several else "") for lane in lanes
    ]
    commits = [(timeline.clock(time), number) for number, s in enumerate(timeline.sessions) for time, _ in s.commits]

    def draw(axes: Any) -> None:
        for row, lane in enumerate(lanes):
            end = _end(timeline, lane)
            loading = [
                (timeline.clock(lane.since) / unit, (timeline.clock(lane.up) - timeline.clock(lane.since)) / unit)
            ]
            axes.broken_barh(loading, (row - 0.32, 0.64), facecolors="none", edgecolors=S3, hatch="////", lw=0.7)
            axes.broken_barh([(timeline.clock(lane.up) / unit, (timeline.clock(end) - timeline.clock(lane.up)) / unit)],
                             (row - 0.32, 0.64), facecolors=LINE)  # fmt: skip
            axes.broken_barh(_bars(timeline, lane, unit), (row - 0.32, 0.64), facecolors=S1)
            if lane.down is not None:
                axes.plot(timeline.clock(lane.down) / unit, row, marker="X", ms=9, color=BAD, mec=INK, mew=0.6)
        if len(commits) <= _MARKS and len(lanes) == 1:
            axes.plot([t / unit for t, _ in commits], [0.42] * len(commits), "|", color=S2, ms=6, mew=1.2)
        _pauses(axes, timeline, unit)
        axes.set_yticks(range(len(lanes)), titles)
        axes.set_ylim(len(lanes) - 0.4, -0.6)
        axes.set_xlim(0, timeline.length / unit)
        axes.set_xlabel(f"{name} of work")
        axes.grid(visible=False)

    more = f" {len(timeline.lanes) - _LANES:,} more replicas are not drawn." if len(timeline.lanes) > _LANES else ""
    summed = (
        " A long run's shards are only counted, so its lanes end early."
        if any(s.summed for s in timeline.sessions)
        else ""
    )
    pauses = "".join(f" Dotted: nothing was at work for {length(p)}." for _, p in timeline.pauses[:3])
    marks = " Small marks: a part is committed." if len(commits) <= _MARKS and len(lanes) == 1 else ""
    rows = [_facts(timeline, lane, title) for lane, title in zip(lanes, titles, strict=True)]
    return figure(
        "Replicas",
        svg(draw, "lanes", "A lane per replica: loading, work, and its end.", width=_WIDE, height=80 + 26 * len(lanes)),
        numbers=table(["replica", "node", "loaded in", "had work", "shards", "ended"], rows), wide=True,
        note=f"Hatched: loading. Filled: it had shards. Cross: it ended before the run did.{marks}{pauses}{more}{summed}",
    )  # fmt: skip


def _end(timeline: Timeline, lane: Lane) -> float:
    return lane.down if lane.down is not None else timeline.sessions[lane.driver].end


def _facts(timeline: Timeline, lane: Lane, title: str) -> list[str]:
    alive = max(1e-9, _end(timeline, lane) - lane.up)
    work = sum(b - a for a, b in merged(lane))
    gone = shortened(lane.reason, 120) if lane.down is not None else "with the run"
    return [
        title,
        lane.node,
        length(lane.up - lane.since),
        percent(min(1.0, work / alive)),
        f"{len(lane.busy):,}",
        gone,
    ]


def _bars(timeline: Timeline, lane: Lane, unit: float) -> list[tuple[float, float]]:
    """Return (start, width) of the stretches with work, gaps that are too narrow to see closed."""
    least = timeline.length / _SPANS
    bars: list[tuple[float, float]] = []
    for start, end in merged(lane):
        a, b = timeline.clock(start), timeline.clock(end)
        if bars and a - bars[-1][1] < least:
            bars[-1] = bars[-1][0], max(b, bars[-1][1])
        else:
            bars.append((a, b))
    return [(a / unit, (b - a) / unit) for a, b in bars]


def _sessions(timeline: Timeline) -> Markup:
    if len(timeline.sessions) == 1:
        return Markup("")
    rows = [
        [
            number, _at(s.start), length(s.end - s.start), len(s.lanes), len(s.commits),
            {"complete": "complete", None: "no end is logged: killed, or at work"}.get(s.stopped, str(s.stopped)),
        ]
        for number, s in enumerate(timeline.sessions, start=1)
    ]  # fmt: skip
    return Markup(
        '<div class="block"><h3>Drivers</h3>'
        + table(["driver", "began (UTC)", "worked", "replicas", "parts", "ended"], rows[:50], label="Drivers")
        + "</div>"
    )


def _at(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _errors(subject: Subject) -> Markup:
    tally = subject.measured.tally
    if not tally.errors:
        return Markup("")
    blocks = []
    for code, number in sorted(tally.errors.items(), key=lambda found: (-found[1], found[0])):
        rows = "".join(
            f'<p class="of">{isolated(e.row_id, 80)}</p>{quotation(e.message, 300)}'
            + (f'<div class="prompt">{quotation(e.prompt, 120)}</div>' if e.prompt else "")
            for e in tally.examples[code]
        )
        share = percent(number / max(1, tally.completions))
        blocks.append(f'<div class="block"><h3>{isolated(code, 60)} · {number:,} ({share})</h3>{rows}</div>')
    return Markup('<h3 id="errors">Errors</h3>' + grid(blocks, small=True))
