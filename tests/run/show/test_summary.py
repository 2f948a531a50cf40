from __future__ import annotations

import io
import re
import shlex
import subprocess

import pytest
from rich.cells import cell_len
from rich.console import Console

from pipeline.output.record.counts import Counts
from pipeline.run.show.summary import RunSummary, look_command, summary

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def terminal(width: int = 100, **options: object) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=True, width=width, highlight=False, **options), stream  # type: ignore[arg-type]


def result(path: str = "outputs/demo", exit_code: int = 0, **changes: object) -> RunSummary:
    values: dict[str, object] = {
        "rows": 64, "rows_total": 64, "completions": 128, "prompt_tokens": 400, "completion_tokens": 6000,
        "tokens_per_second": 321.5, "wall_seconds": 75.0,
    }  # fmt: skip
    return RunSummary(path=path, exit_code=exit_code, **(values | changes))  # type: ignore[arg-type]


def printed(told: RunSummary) -> str:
    console, stream = terminal()
    summary(told, console=console)
    return ESCAPES.sub("", stream.getvalue())


class TestSummary:
    def test_complete(self) -> None:
        assert printed(result(errors={"TIMEOUT": 1, "NULL_PROMPT": 2})).splitlines() == [
            "complete  outputs/demo",
            "  rows    64, 128 completions",
            "  tokens  6,000 generated, 322 tokens/s, 400 of prompts",
            "  time    1:15",
            "  errors  2 NULL_PROMPT, 1 TIMEOUT",
            "  look    promptmill look outputs/demo",
        ]

    def test_how_completions_ended(self) -> None:
        totals = Counts(
            64, 128, 400, 6000, {"TIMEOUT": 8}, {"error": 8, "length": 100, "stop": 20}, {"shortest": 3, "longest": 64}
        )
        lines = printed(result(totals=totals)).splitlines()
        assert "  ends    error 8, length 100, stop 20" in lines
        assert "  lengths 3 to 64 tokens, 50.0 on average" in lines
        assert not any("warning" in line for line in lines)

    def test_what_may_not_have_come_out_as_it_was_meant(self) -> None:
        totals = Counts(
            64, 128, 400, 6000, {}, {"length": 128}, {"shortest": 3, "longest": 64}, clamped_rows=1, cut_off=2
        )
        warnings = [line for line in printed(result(totals=totals)).splitlines() if line.startswith("  warning ")]
        assert warnings == [
            "  warning 2 completions that should follow a schema, regex or choice ended by length: cut off before the end; "
            "raise sampling.max_tokens",
            "  warning the context left less than sampling.max_tokens for 1 row",
        ]

    def test_nothing_but_errors(self) -> None:
        totals = Counts(1, 1, 0, 0, {"TIMEOUT": 1}, {"error": 1})
        text = printed(result(totals=totals))
        assert "lengths" not in text
        assert "  warning every row is an error; with max_error_rate=0.5, say, that is exit code 3\n" in text
        half = Counts(2, 2, 0, 0, {"TIMEOUT": 1}, {"error": 1, "stop": 1}, {"shortest": 1, "longest": 1})
        assert "every row" not in printed(result(totals=half))

    @pytest.mark.parametrize(
        ("code", "meaning"),
        [
            (0, "complete"),
            (3, "max_error_rate"),
            (75, "stopped early"),
            (130, "interrupted"),
            (143, "terminated"),
            (1, "failed"),
        ],
    )
    def test_says_how_it_ended(self, code: int, meaning: str) -> None:
        assert meaning in printed(result(exit_code=code)).splitlines()[0]

    def test_an_unfinished_run(self) -> None:
        text = printed(result(exit_code=75, rows=10, tokens_per_second=None))
        assert "10 of 64, 128 completions" in text
        assert "tokens/s" not in text
        assert "errors  none" in text

    def test_nothing_to_look_at(self) -> None:
        assert "look" not in printed(result(rows=0, rows_total=0))

    def test_two_samples_shortened_and_escaped(self) -> None:
        text = printed(result(samples=[("a [red]b", "c\n\nd \x1b[31m" + "x" * 500), ("p", "q"), ("third", "r")]))
        assert text.splitlines()[0].startswith(r"a [red]b → c d \x1b[31mxxx")
        assert text.splitlines()[0].endswith("x…")
        assert text.splitlines()[1] == "p → q"
        assert "third" not in text

    def test_without_colour_on_a_file(self) -> None:
        stream = io.StringIO()
        summary(result(), stream=stream)
        assert "\x1b" not in stream.getvalue()

    @pytest.mark.parametrize("path", ["outputs/demo", "s3://bucket/x", "it's here", "a b", "$HOME/`x`", 'q"uote'])
    @pytest.mark.parametrize("code", [0, 3])
    def test_the_command_reads_that_folder_in_any_shell(self, path: str, code: int) -> None:
        words = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {look_command(result(path, code))}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")
        assert words[:-1] == ["promptmill", "look", path, *["--errors"] * (code == 3)]
        assert shlex.split(look_command(result(path, code))) == words[:-1]

    @pytest.mark.parametrize("width", [40, 80, 200])
    def test_samples_fit_and_show_the_end_of_the_prompt(self, width: int) -> None:
        console, stream = terminal(width)
        prompt = "A long introduction. " * 20 + "The question 世界?"
        summary(result(samples=[(prompt, "answer " * 100)]), console=console)
        line = ESCAPES.sub("", stream.getvalue()).splitlines()[0]
        before, _, after = line.partition(" → ")
        assert (
            before.startswith("…") and before.endswith("世界?") and after.startswith("answer") and after.endswith("…")
        )
        assert width - 8 <= cell_len(line) <= width

    def test_a_text_without_a_prompt_stands_alone(self) -> None:
        console, stream = terminal(80)
        summary(result(samples=[("", "A text that was scored")]), console=console)
        assert ESCAPES.sub("", stream.getvalue()).splitlines()[0].rstrip() == "A text that was scored"
