from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Mapping

import pytest
from rich.console import Console

from pipeline.run.show.progress import ProgressView, progress_view
from pipeline.run.show.snapshot import RunSnapshot, TimeLeft
from pipeline.wording import duration

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def snapshot(
    rows: int = 0, elapsed: float = 0.0, *, running: int = 64, total: int = 100, tokens: int = 1234,
    errors: Mapping[str, int] | None = None, slots: int = 0, left: float | None = None, elsewhere: float = 0.0,
    before: int = 0,
) -> RunSnapshot:  # fmt: skip
    return RunSnapshot(
        rows_done=rows,
        rows_total=total,
        rows_before=before,
        tokens=tokens * bool(running),
        tokens_per_second=117.4,
        tokens_left=left,
        tokens_elsewhere=elsewhere,
        errors=errors or {},
        slots=slots,
        replicas=2,
        shards_done=rows // 10,
        shards_total=10,
        elapsed_seconds=elapsed,
        running=running,
    )


def terminal(width: int = 100, **options: object) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=True, width=width, highlight=False, **options), stream  # type: ignore[arg-type]


class Lines(io.StringIO):
    """A stream that another thread writes to."""

    def wait_for(self, text: str) -> None:
        for _ in range(60_000):
            if text in self.getvalue():
                return
            time.sleep(0.01)
        raise AssertionError(text)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class TestTimeLeft:
    def test_known_from_the_first_tokens_long_before_a_row_ends(self) -> None:
        left = TimeLeft()
        assert left.update(snapshot(0, 0, running=0)) is None
        assert left.update(snapshot(0, 30, tokens=0, left=6400)) is None
        assert left.update(snapshot(0, 40, tokens=128, left=6272)) == pytest.approx(490)

    def test_counts_from_the_first_token_not_from_the_start(self) -> None:
        left = TimeLeft()
        left.update(snapshot(0, 0, running=0))
        left.update(snapshot(0, 100, tokens=0))
        assert left.update(snapshot(10, 110, tokens=500, left=4500)) == pytest.approx(90)

    def test_what_other_drivers_make_counts(self) -> None:
        left = TimeLeft()
        left.update(snapshot(0, 0, tokens=0))
        assert left.update(snapshot(20, 10, tokens=100, elsewhere=100, left=800)) == pytest.approx(40)

    def test_not_known_without_an_estimate(self) -> None:
        left = TimeLeft()
        left.update(snapshot(0, 0, tokens=0))
        assert left.update(snapshot(0, 10, tokens=10)) is None

    def test_tokens_that_are_lost_are_no_reason_to_go_backwards(self) -> None:
        left = TimeLeft()
        left.update(snapshot(0, 0, tokens=100))
        assert left.update(snapshot(0, 10, tokens=50, left=100)) is None

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
        return progress_view(stream, clock=clock), stream, clock

    def test_one_line_at_most_every_interval_and_the_last_state(self) -> None:
        view, stream, clock = self.view()
        with view:
            for second in range(13):
                clock.now = second
                view.update(snapshot(second, second, left=8800 - 100 * second, tokens=100 * second))
        lines = stream.getvalue().splitlines()
        assert [re.search(r"(\d+)/100 rows", line)[1] for line in lines] == ["0", "5", "10", "12"]  # type: ignore[index]
        assert re.fullmatch(
            r"\d\d:\d\d:\d\d INFO 12/100 rows · 1/10 parts · 1:16 left · 117 tokens/s · 1,200 tokens · 0 errors"
            r" · 0:12 elapsed · 2 replicas, 64 running",
            lines[-1],
        )

    def test_lines_thin_out(self) -> None:
        view, stream, clock = self.view()
        with view:
            for second in range(0, 8 * 3600, 5):
                clock.now = second
                view.update(snapshot(0, second))
        assert 120 // 5 + 58 + 7 * 12 <= len(stream.getvalue().splitlines()) <= 170

    def test_what_is_of_this_start_only_says_so(self) -> None:
        view, stream, _ = self.view()
        with view:
            view.update(snapshot(30, 5, before=20))
        assert "30/100 rows · 3/10 parts · – left · this start: 117 tokens/s · 1,234 tokens" in stream.getvalue()

    def test_a_stage_is_told_of_until_something_else_begins(self) -> None:
        stream = Lines()
        with progress_view(stream) as view:
            view.stage("checking the model")
            stream.wait_for("INFO checking the model")
            view.update(snapshot(0, 0))
            view.stage("writing")
        assert "writing" not in stream.getvalue()

    def test_a_note_may_have_a_level_of_its_own(self) -> None:
        view, stream, _ = self.view()
        with view:
            view.note("WARNING: the sky falls")
        assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING the sky falls\n", stream.getvalue())

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
        errors = {"TIMEOUT": 1, "NULL_PROMPT": 2}
        last = snapshot(30, 30, errors=errors, slots=128, left=2879.3)
        text = ESCAPES.sub("", self.shown(140, snapshot(0, 0, tokens=0), last))
        lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
        assert len(lines) == 2
        assert re.fullmatch(r"30/100 rows  30% [━╸╺ ]+ 1:10 left", lines[0])
        assert lines[1] == (
            "3/10 parts · 117 tokens/s · 1,234 tokens · 3 errors (2 NULL_PROMPT, 1 TIMEOUT) · 0:30 elapsed · "
            "2 replicas, 64 of 128 running"
        )

    @pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
    def test_any_width(self, width: int) -> None:
        text = ESCAPES.sub("", self.shown(width, snapshot(30, 30, total=1_000_000)))
        assert max(len(line) for line in re.split(r"[\r\n]+", text)) <= width

    def test_a_stage_shows_how_long_it_takes(self) -> None:
        console, stream = terminal()
        clock = Clock()
        with progress_view(console=console, clock=clock) as view:
            view.stage("starting [Ray]")
            clock.now = 7
        assert "starting [Ray] · 0:07" in ESCAPES.sub("", stream.getvalue())

    def test_no_color(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]", self.shown(100, snapshot(30, 30, errors={"TIMEOUT": 1})))

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
