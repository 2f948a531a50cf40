"""Shows the progress of a run: live on a terminal, elsewhere as occasional log lines."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.stages import Stage, interval, now_doing
from pipeline.wording import UNKNOWN, by_code, counted, duration, plain


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """The state of a run.

    Attributes:
        rows_done: Input rows in committed parts, those of an earlier start included.
        rows_total: Input rows planned.
        rows_before: Input rows that were in committed parts at this start.
        tokens: Tokens generated since this start, those of unfinished completions included.
        tokens_per_second: The recent rate; None until it is known.
        tokens_left: Estimated number of tokens still to be made; None while unknown.
        tokens_elsewhere: Estimated number of tokens that other drivers have made since this start.
        errors: Error code → rows that became such errors since this start.
        replicas: Replicas at work.
        shards_done: Committed parts, those of an earlier start included.
        shards_total: Parts planned.
        elapsed_seconds: Time since this start.
        running: Sequences being generated now.
        slots: Sequences that the replicas can generate at once; 0: unknown.
    """

    rows_done: int
    rows_total: int
    rows_before: int = 0
    tokens: int = 0
    tokens_per_second: float | None = None
    tokens_left: float | None = None
    tokens_elsewhere: float = 0.0
    errors: Mapping[str, int] = field(default_factory=dict)
    replicas: int = 0
    shards_done: int = 0
    shards_total: int = 0
    elapsed_seconds: float = 0.0
    running: int = 0
    slots: int = 0


class ProgressView(Protocol):
    """Shows a run to the user while it lasts; a context manager."""

    def update(self, snapshot: RunSnapshot) -> None:
        """Show a new state. May be called at any rate."""

    def note(self, text: str) -> None:
        """Show a line once, such as that a replica was replaced. The text is shown literally, never as markup."""

    def stage(self, text: str, detail: Callable[[], str] = now_doing) -> None:
        """Show what the driver is doing, if it takes long, until the next stage, the next state or the end.

        Args:
            text: What it is doing.
            detail: Returns what exactly, and how far it is.
        """

    def __enter__(self) -> ProgressView:
        """Start the display."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the stream as it was."""


def progress_view(
    stream: TextIO | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
    console: Console | None = None,
    live: bool = True,
) -> ProgressView:
    """Choose the view that fits a stream.

    Args:
        stream: Where to show; standard error unless given.
        clock: The time in seconds.
        console: Used instead of a console on `stream`.
        live: Whether a terminal's lines may be replaced in place; False while a library may draw there itself.
    """
    target = stream if stream is not None else sys.stderr
    shown_on = console if console is not None else Console(file=target)
    if live and shown_on.is_terminal and not shown_on.is_dumb_terminal:
        return _LiveView(shown_on, clock)
    return _LineView(target, clock)


class TimeLeft:
    """Estimates the time left: the remaining tokens at the rate of all drivers since work began.

    Tokens of an earlier start, and the time before the first token, do not count.
    """

    def __init__(self) -> None:
        """Start without an estimate."""
        self._start: tuple[float, float] | None = None

    def update(self, snapshot: RunSnapshot) -> float | None:
        """Take a new state, and return the seconds left, or None while unknown."""
        if snapshot.rows_done >= snapshot.rows_total:
            return 0.0
        now, made = snapshot.elapsed_seconds, snapshot.tokens + snapshot.tokens_elsewhere
        if self._start is None:
            if snapshot.running or made:
                self._start = (made, now)
            return None
        before, since = self._start
        if snapshot.tokens_left is None or made <= before or now <= since:
            return None
        return snapshot.tokens_left * (now - since) / (made - before)


class _LineView:
    """Log lines at growing intervals; the first and the last state are always shown."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream, self._clock = stream, clock
        self._left = TimeLeft()
        self._began: float | None = None
        self._last = 0.0
        self._unshown: str | None = None
        self._stage: Stage | None = None

    def update(self, snapshot: RunSnapshot) -> None:
        self._end_stage()
        left = f"{duration(self._left.update(snapshot))} left"
        line = " · ".join([_rows(snapshot), _parts(snapshot), left, *_figures(snapshot)])
        now = self._clock()
        first = self._began is None
        self._began = now if self._began is None else self._began
        if first or now - self._last >= interval(now - self._began):
            self._write(line)
            self._last, self._unshown = now, None
        else:
            self._unshown = line

    def note(self, text: str) -> None:
        self._write(plain(text))

    def stage(self, text: str, detail: Callable[[], str] = now_doing) -> None:
        self._end_stage()
        self._show_unshown()
        self._stage = Stage(plain(text), self._write, lambda: plain(detail()))

    def __enter__(self) -> ProgressView:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_stage()
        self._show_unshown()

    def _end_stage(self) -> None:
        if self._stage is not None:
            self._stage.end()
            self._stage = None

    def _show_unshown(self) -> None:
        if self._unshown is not None:
            self._write(self._unshown)
            self._unshown = None

    def _write(self, line: str) -> None:
        print(time.strftime("%H:%M:%S"), leveled(line), file=self._stream, flush=True)


class _LiveView:
    """Two lines at the bottom of the terminal, replaced in place and gone at the end; notes scroll above them."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console, self._clock = console, clock
        self._left = TimeLeft()
        self._shown: RenderableType = ""
        # Text that others print to a redirected stdout must not appear on the terminal.
        self._live = Live(
            console=console,
            transient=True,
            refresh_per_second=4,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
            get_renderable=lambda: self._shown,
        )

    def update(self, snapshot: RunSnapshot) -> None:
        self._shown = self._render(snapshot)

    def note(self, text: str) -> None:
        self._console.print(Text(f"{time.strftime('%H:%M:%S')} {plain(text)}"))

    def stage(self, text: str, detail: Callable[[], str] = now_doing) -> None:
        self._shown = _Stage(plain(text), detail, self._clock)

    def __enter__(self) -> ProgressView:
        self._live.start(refresh=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _render(self, snapshot: RunSnapshot) -> Group:
        share = snapshot.rows_done / snapshot.rows_total if snapshot.rows_total else 1.0
        top = Table.grid(padding=(0, 1), expand=True)
        for _ in range(2):
            top.add_column(no_wrap=True)
        top.add_column(ratio=1)
        top.add_column(no_wrap=True)
        top.add_row(
            Text(_rows(snapshot), "bold"),
            Text(f"{share:4.0%}"),
            ProgressBar(total=max(snapshot.rows_total, 1), completed=snapshot.rows_done if snapshot.rows_total else 1),
            Text(f"{duration(self._left.update(snapshot))} left", "cyan"),
        )
        figures = Text(" · ".join([_parts(snapshot), *_figures(snapshot)]), no_wrap=True, overflow="ellipsis")
        figures.highlight_regex(" · ", "dim")
        if snapshot.errors:
            figures.highlight_regex(r"[\d,]+ errors? \(.*?\)", "red")
        return Group(top, figures)


class _Stage:
    """The current activity with its running time, which updates itself."""

    def __init__(self, text: str, detail: Callable[[], str], clock: Callable[[], float]) -> None:
        self._text, self._detail, self._clock, self._since = text, detail, clock, clock()

    def __rich__(self) -> Text:
        seconds = duration(self._clock() - self._since)
        detail = plain(self._detail())
        return Text(
            f"{self._text}{f': {detail}' if detail else ''} · {seconds}", "cyan", no_wrap=True, overflow="ellipsis"
        )


def leveled(line: str) -> str:
    """Put the log level before a line: INFO, unless the line begins with a level, as in `WARNING: …`."""
    own = re.match(r"(WARNING|ERROR): ", line)
    return f"{own[1]} {line[own.end() :]}" if own else f"INFO {line}"


def _rows(snapshot: RunSnapshot) -> str:
    return f"{snapshot.rows_done:,}/{snapshot.rows_total:,} rows"


def _parts(snapshot: RunSnapshot) -> str:
    return f"{snapshot.shards_done:,}/{snapshot.shards_total:,} parts"


def _figures(snapshot: RunSnapshot) -> list[str]:
    """Return the figures of this start; they say so if rows and parts include an earlier start."""
    rate = UNKNOWN if snapshot.tokens_per_second is None else f"{snapshot.tokens_per_second:,.0f}"
    return [
        f"{'this start: ' if snapshot.rows_before else ''}{rate} tokens/s",
        f"{snapshot.tokens:,} tokens",
        _errors(snapshot),
        f"{duration(snapshot.elapsed_seconds)} elapsed",
        f"{counted(snapshot.replicas, 'replica')}, {_occupancy(snapshot)}",
    ]


def _errors(snapshot: RunSnapshot) -> str:
    """Return the number of errors, and how many there are of each code."""
    total = counted(sum(snapshot.errors.values()), "error")
    return f"{total} ({by_code(snapshot.errors)})" if snapshot.errors else total


def _occupancy(snapshot: RunSnapshot) -> str:
    return f"{snapshot.running:,}{f' of {snapshot.slots:,}' if snapshot.slots else ''} running"
