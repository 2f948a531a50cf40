from __future__ import annotations

import io
import re
import sys

import pytest
from rich.console import Console

from pipeline.run.progress import (
    ProgressView,
    RunSnapshot,
    TimeLeft,
    duration,
    progress_view,
)

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def snapshot(
    rows: int = 0, elapsed: float = 0.0, *, running: int = 64, total: int = 100, errors: int = 0
) -> RunSnapshot:
    return RunSnapshot(
        rows_done=rows,
        rows_total=total,
        completion_tokens=1234 * bool(running),
        tokens_per_second=117.4,
        errors=errors,
        replicas=2,
        shards_done=rows // 10,
        shards_total=10,
        elapsed_seconds=elapsed,
        running=running,
    )


def terminal(width: int = 100, **options: object) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=True, width=width, highlight=False, **options), stream  # type: ignore[arg-type]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class TestTimeLeft:
    def test_silent_until_a_commit_is_seen(self) -> None:
        left = TimeLeft()
        assert left.update(snapshot(0, 0, running=0)) is None
        assert left.update(snapshot(0, 30)) is None
        assert left.update(snapshot(0, 40)) is None

    def test_counts_from_the_first_token_not_from_the_start(self) -> None:
        left = TimeLeft()
        left.update(snapshot(0, 0, running=0))
        left.update(snapshot(0, 100))
        assert left.update(snapshot(10, 110)) == pytest.approx(90)

    def test_rows_of_an_earlier_start_say_nothing_about_the_speed(self) -> None:
        left = TimeLeft()
        left.update(snapshot(80, 0, running=0))
        left.update(snapshot(80, 10))
        assert left.update(snapshot(90, 30)) == pytest.approx(20)

    def test_counts_down_between_commits_and_not_below_zero(self) -> None:
        left = TimeLeft()
        left.update(snapshot(0, 0))
        assert left.update(snapshot(50, 50)) == pytest.approx(50)
        assert left.update(snapshot(50, 60)) == pytest.approx(40)
        assert left.update(snapshot(50, 200)) == 0

    def test_nothing_left(self) -> None:
        assert TimeLeft().update(snapshot(100, 5, running=0)) == 0
        assert TimeLeft().update(snapshot(0, 0, running=0, total=0)) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0, "0:00"), (59.6, "1:00"), (134, "2:14"), (3600, "1:00:00"), (90061, "25:01:01")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


class TestLines:
    def view(self) -> tuple[ProgressView, io.StringIO, Clock]:
        stream, clock = io.StringIO(), Clock()
        return progress_view(stream, interval=5.0, clock=clock), stream, clock

    def test_one_line_at_most_every_interval_and_the_last_state(self) -> None:
        view, stream, clock = self.view()
        with view:
            for second in range(13):
                clock.now = second
                view.update(snapshot(second, second))
        lines = stream.getvalue().splitlines()
        assert [re.search(r"(\d+)/100 rows", line)[1] for line in lines] == ["0", "5", "10", "12"]  # type: ignore[index]
        assert re.fullmatch(
            r"\d\d:\d\d:\d\d INFO 12/100 rows · 117 tokens/s · 1,234 tokens · 0 errors · 2 replicas, 64 running"
            r" · 1/10 shards · 0:12 elapsed · 1:28 left",
            lines[-1],
        )

    def test_what_is_not_known_is_a_dash(self) -> None:
        view, stream, _ = self.view()
        with view:
            view.update(RunSnapshot(0, 100))
        assert "– tokens/s" in stream.getvalue()
        assert "– left" in stream.getvalue()

    def test_notes_are_one_line_whatever_is_in_them(self) -> None:
        view, stream, _ = self.view()
        with view:
            view.note("row [bold]x[/bold]\n\x1b[31mred")
        assert stream.getvalue().splitlines()[0].endswith(r"INFO row [bold]x[/bold]\n\x1b[31mred")

    def test_a_dumb_terminal_gets_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "dumb")
        console, stream = terminal()
        with progress_view(stream, console=console) as view:
            view.update(snapshot(10, 1))
        assert "INFO 10/100 rows" in stream.getvalue()


class TestLive:
    def shown(self, width: int, *snapshots: RunSnapshot, note: str | None = None, **options: object) -> str:
        console, stream = terminal(width, **options)
        with progress_view(console=console) as view:
            for state in snapshots:
                view.update(state)
            if note is not None:
                view.note(note)
        return stream.getvalue()

    @pytest.fixture(autouse=True)
    def real_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)

    def test_two_lines_that_fit(self) -> None:
        text = ESCAPES.sub("", self.shown(120, snapshot(0, 0), snapshot(30, 30, errors=3)))
        lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
        assert len(lines) == 2
        assert re.fullmatch(r"30/100 rows  30% [━╸╺ ]+ 1:10 left", lines[0])
        assert (
            lines[1] == "117 tokens/s · 1,234 tokens · 3 errors · 2 replicas, 64 running · 3/10 shards · 0:30 elapsed"
        )

    @pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
    def test_any_width(self, width: int) -> None:
        text = ESCAPES.sub("", self.shown(width, snapshot(30, 30, total=1_000_000)))
        assert max(len(line) for line in re.split(r"[\r\n]+", text)) <= width

    def test_no_color(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]", self.shown(100, snapshot(30, 30, errors=1)))

    def test_notes_stay_above_and_are_not_markup(self) -> None:
        text = self.shown(100, snapshot(1, 1), note="[red]x[/red] \x1b[2J")
        assert r"[red]x[/red] \x1b[2J" in text
        assert "\x1b[2J" not in text

    def test_an_empty_run(self) -> None:
        assert "0/0 rows 100%" in ESCAPES.sub("", self.shown(100, RunSnapshot(0, 0)))

    def test_leaves_the_terminal_as_it_was_after_an_error(self) -> None:
        console, stream = terminal()
        stderr = sys.stderr
        with pytest.raises(RuntimeError), progress_view(console=console) as view:
            view.update(snapshot(1, 1))
            raise RuntimeError
        assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")
        assert sys.stderr is stderr
