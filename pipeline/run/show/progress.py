"""Shows the progress of a run: live on a terminal, elsewhere as occasional log lines."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.run.show.snapshot import RunSnapshot, TimeLeft, figures, parts, rows
from pipeline.stages import Stage, interval, now_doing
from pipeline.wording import duration, plain


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
        line = " · ".join([rows(snapshot), parts(snapshot), left, *figures(snapshot)])
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
            Text(rows(snapshot), "bold"),
            Text(f"{share:4.0%}"),
            ProgressBar(total=max(snapshot.rows_total, 1), completed=snapshot.rows_done if snapshot.rows_total else 1),
            Text(f"{duration(self._left.update(snapshot))} left", "cyan"),
        )
        below = Text(" · ".join([parts(snapshot), *figures(snapshot)]), no_wrap=True, overflow="ellipsis")
        below.highlight_regex(" · ", "dim")
        if snapshot.errors:
            below.highlight_regex(r"[\d,]+ errors? \(.*?\)", "red")
        return Group(top, below)


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
