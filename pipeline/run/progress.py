"""Shows how a run is getting on, live on a terminal or a log line now and then elsewhere, and what came of it.

It does not know where the numbers come from.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

UNKNOWN = "–"


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """Where a run stands.

    Attributes:
        rows_done: Input rows in committed parts, those of an earlier start included.
        rows_total: Input rows planned.
        completion_tokens: Tokens generated since this start.
        tokens_per_second: The recent rate; null until there is one.
        errors: Rows that became errors.
        replicas: Replicas at work.
        shards_done: Committed parts.
        shards_total: Parts planned.
        elapsed_seconds: Time since this start.
        running: Sequences being generated now.
    """

    rows_done: int
    rows_total: int
    completion_tokens: int = 0
    tokens_per_second: float | None = None
    errors: int = 0
    replicas: int = 0
    shards_done: int = 0
    shards_total: int = 0
    elapsed_seconds: float = 0.0
    running: int = 0


class ProgressView(Protocol):
    """What the driver tells about a run while it lasts; a context manager."""

    def update(self, snapshot: RunSnapshot) -> None:
        """Show a new state. May be called as often as is convenient."""

    def note(self, text: str) -> None:
        """Say something once, such as that a replica was replaced. The text is shown as it is, never as markup."""

    def __enter__(self) -> ProgressView:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the stream as it was."""


def progress_view(
    stream: TextIO | None = None,
    *,
    interval: float = 5.0,
    clock: Callable[[], float] = time.monotonic,
    console: Console | None = None,
) -> ProgressView:
    """Choose the view that fits a stream.

    Args:
        stream: Where to show; standard error unless given.
        interval: Seconds between two lines, where it is not a terminal.
        clock: The time in seconds, for the interval.
        console: In place of a console on `stream`.
    """
    target = stream if stream is not None else sys.stderr
    shown_on = console if console is not None else Console(file=target)
    if shown_on.is_terminal and not shown_on.is_dumb_terminal:
        return _LiveView(shown_on)
    return _LineView(target, interval, clock)


class TimeLeft:
    """Estimates the time left from the rows done since work began: steady between commits, silent until one is seen.

    Rows that were there from an earlier start, and the time before the first token, count for nothing. Between two
    commits the estimate counts down, as nothing new is known.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._start: tuple[int, float] | None = None
        self._rows = 0
        self._ends_at: float | None = None

    def update(self, snapshot: RunSnapshot) -> float | None:
        """Take a state and return the seconds left, or null while they cannot be known."""
        now = snapshot.elapsed_seconds
        if self._start is None:
            self._rows = snapshot.rows_done
            if snapshot.running or snapshot.completion_tokens:
                self._start = (snapshot.rows_done, now)
            return 0.0 if snapshot.rows_done >= snapshot.rows_total else None
        rows, since = self._start
        if snapshot.rows_done > self._rows and now > since:
            self._rows = snapshot.rows_done
            rate = (snapshot.rows_done - rows) / (now - since)
            self._ends_at = now + (snapshot.rows_total - snapshot.rows_done) / rate
        if snapshot.rows_done >= snapshot.rows_total:
            return 0.0
        return None if self._ends_at is None else max(self._ends_at - now, 0.0)


def duration(seconds: float | None) -> str:
    """Write a time as `1:02:03`, or `2:03` below an hour; a dash when it is not known."""
    if seconds is None:
        return UNKNOWN
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plain(text: str) -> str:
    """Escape control characters: no text from data moves the cursor, colours the screen or begins a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _LineView:
    """One line at most every few seconds, the first and the last state in any case."""

    def __init__(self, stream: TextIO, interval: float, clock: Callable[[], float]) -> None:
        self._stream, self._interval, self._clock = stream, interval, clock
        self._left = TimeLeft()
        self._last: float | None = None
        self._unshown: str | None = None

    def update(self, snapshot: RunSnapshot) -> None:
        line = " · ".join([_rows(snapshot), *_figures(snapshot), f"{duration(self._left.update(snapshot))} left"])
        now = self._clock()
        if self._last is None or now - self._last >= self._interval:
            self._write(line)
            self._last, self._unshown = now, None
        else:
            self._unshown = line

    def note(self, text: str) -> None:
        self._write(plain(text))

    def __enter__(self) -> ProgressView:
        return self

    def __exit__(self, *_: object) -> None:
        if self._unshown is not None:
            self._write(self._unshown)
            self._unshown = None

    def _write(self, line: str) -> None:
        print(time.strftime("%H:%M:%S"), "INFO", line, file=self._stream, flush=True)


class _LiveView:
    """Two lines at the bottom of the terminal, replaced in place and gone at the end; notes scroll above them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._left = TimeLeft()
        # What others print to a redirected stdout must not end up on the terminal.
        self._live = Live(
            console=console,
            transient=True,
            refresh_per_second=4,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
        )

    def update(self, snapshot: RunSnapshot) -> None:
        self._live.update(self._render(snapshot))

    def note(self, text: str) -> None:
        self._console.print(Text(f"{time.strftime('%H:%M:%S')} {plain(text)}"))

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
        figures = Text(" · ".join(_figures(snapshot)), no_wrap=True, overflow="ellipsis")
        figures.highlight_regex(" · ", "dim")
        if snapshot.errors:
            figures.highlight_regex(r"[\d,]+ errors?", "red")
        return Group(top, figures)


def _rows(snapshot: RunSnapshot) -> str:
    return f"{snapshot.rows_done:,}/{snapshot.rows_total:,} rows"


def _figures(snapshot: RunSnapshot) -> list[str]:
    rate = UNKNOWN if snapshot.tokens_per_second is None else f"{snapshot.tokens_per_second:,.0f}"
    return [
        f"{rate} tokens/s",
        f"{snapshot.completion_tokens:,} tokens",
        counted(snapshot.errors, "error"),
        f"{counted(snapshot.replicas, 'replica')}, {snapshot.running:,} running",
        f"{snapshot.shards_done:,}/{snapshot.shards_total:,} shards",
        f"{duration(snapshot.elapsed_seconds)} elapsed",
    ]


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
