"""A preview shows what the job makes of the same rows, and leaves no trace."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from jobs.generate import main
from pipeline.run.show.preview import show_preview
from pipeline.types import Completion, FinishReason, PromptRow, SamplingParams
from pipeline.work.preview import Preview, PreviewRow, preview
from pipeline.work.sampling import SamplingConfig
from pipeline.work.tokens import BANDS
from tests.small_runs import MODEL, configured, generate, read, write

ROWS = 20
OPTIONS = ["source.id_column=id", "source.sampling_column=how", "output.rows_per_shard=7", "sampling.n=2"]


def trace(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("spread", [False, True])
def test_the_rows_are_those_of_the_job(spread: bool, source: Path, reference: Path, tmp_path: Path) -> None:
    before = trace(tmp_path)
    config = configured(
        source, "preview://", source={"id_column": "id", "sampling_column": "how"}, output={"rows_per_shard": 7},
        sampling=SamplingConfig(n=2, max_tokens=8), preview=5, preview_random=spread,
    )  # fmt: skip
    found = preview(config, 1, lambda line: None, lambda text: None)
    assert [row.row.row_id for row in found.rows] == [f"row-{i * 4 if spread else i:04d}" for i in range(5)]
    made = {(row["row_id"], row["sample_index"]): row for row in read(reference).to_pylist()}
    for shown in found.rows:
        if shown.row.error is not None:
            assert made[shown.row.row_id, 0]["error_code"] == shown.row.error.code
        for completion in shown.completions:
            row = made[shown.row.row_id, completion.request.sample_index]
            assert (row["text"], row["token_ids"]) == (completion.text, list(completion.token_ids))
            assert row["token_ranks"] == completion.statistics["token_ranks"].tolist()
            assert row["prompt"] == shown.row.prompt
    assert sum(len(shown.completions) for shown in found.rows) == 2 * sum(r.row.error is None for r in found.rows)
    assert found.plan.rows == ROWS
    assert trace(tmp_path) == before


def test_the_command_writes_nothing_and_needs_no_output(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"model.path={MODEL}", f"source.path={source}", "sampling.max_tokens=8", "stats.columns=[]"]
    assert main([*words, "preview=4"]) == 0
    out = capsys.readouterr().out
    assert "1/4 prompts.parquet:0" in out and "Weather report" in out
    assert "error NULL_PROMPT" in out and "; ranks: " in out
    assert "preview  4 rows, 1 error; " in out and "whole    20 rows, about " in out
    assert "\x1b" not in out
    assert trace(tmp_path) == set()
    assert main([*words, "preview=100", "output.path=there"]) == 0
    assert "preview  20 rows" in capsys.readouterr().out
    assert trace(tmp_path) == set()


def test_an_output_that_is_there_stays_as_it_is(source: Path, tmp_path: Path) -> None:
    assert generate(source, tmp_path / "out") == 0
    before = {path: path.read_bytes() for path in trace(tmp_path) if path.is_file()}
    assert (
        main(
            [
                f"model.path={MODEL}",
                f"source.path={source}",
                f"output.path={tmp_path / 'out'}",
                "preview=2",
                "sampling.seed=9",
            ]
        )
        == 0
    )
    assert {path: path.read_bytes() for path in trace(tmp_path) if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["preview=0"], "preview=0: must be null or a number of rows from 1"),
        (["preview_random=true", "output.path=x"], "preview_random=true: must be given with preview=ROWS"),
        (["preview=2", "source.prompt_column=nix"], "source.prompt_column: there is no column 'nix'"),
        ([], "output.path"),
    ],
)
def test_mistakes(words: list[str], told: str, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"model.path={MODEL}", f"source.path={source}", *words]) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_an_empty_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = write({"prompt": pa.array([], pa.string())}, tmp_path / "in.parquet")
    assert main([f"model.path={MODEL}", f"source.path={empty}", "preview=2"]) == 0
    assert "0 rows; how long they take is not known" in capsys.readouterr().out


class Letters:
    """A token is a byte; 0 is special."""

    def decode(self, ids: Any, *, special: bool = False) -> str:
        return bytes(i for i in ids if i or special).replace(b"\0", b"<s>").decode(errors="replace")

    def token(self, token_id: int) -> str:
        return chr(token_id)


def shown(text: str, ranks: list[int], *, prompt: str = "p", colours: bool = True) -> str:
    """One completion, as it is printed."""
    sampling = SamplingParams()
    row = PromptRow("a\x1b[2J", prompt, (0, *prompt.encode()), sampling)
    ids = tuple(text.encode())
    done = Completion(
        row.requests()[0], ids, text, FinishReason.STOP, statistics={"token_ranks": np.array(ranks, np.int32)}
    )
    plan: Any = type("P", (), {"rows": 1000})
    found = Preview(plan, (PreviewRow(row, (done,), 0.5),), 2.0, 8, Letters())  # type: ignore[arg-type]
    stream = io.StringIO()
    system: Any = "256" if colours else None
    show_preview(
        found, Console(file=stream, force_terminal=colours, color_system=system, no_color=False, soft_wrap=True)
    )
    return stream.getvalue()


def test_tokens_are_coloured_by_their_rank() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system="256")
    text = shown("abcd", [1, 10, 100, 101])
    for letter, (_, _, colour) in zip("abcd", BANDS, strict=True):
        with console.capture() as captured:
            console.print(f"[{colour}]{letter}[/]", end="")
        assert captured.get() in text
    assert "ranks: 25% first, 25% 2 to 10, 25% 11 to 100, 25% beyond" in text


def test_a_character_of_several_tokens_is_shown_whole() -> None:
    text = shown("é京", [1, 2, 3, 4, 5])
    assert "é" in text and "京" in text and "\ufffd" not in text


def test_nothing_that_is_shown_moves_the_cursor() -> None:
    text = shown("x\x1b[2Jy\u202e", [1] * 9, prompt="one\ntwo\x07", colours=False)
    assert not set("\x1b\x07\u202e") & set(text)
    assert "<s>one⏎\ntwo" in text


def test_a_long_prompt_is_cut_in_the_middle() -> None:
    text = shown("x", [1], prompt="a" * 1000 + "b" * 5000, colours=False)
    assert "[…4,803 characters…]" in text and len(text) < 2000


def test_the_whole_is_what_these_rows_say() -> None:
    text = shown("abcd", [1] * 4, colours=False)
    assert "whole    1,000 rows, about 4,000 tokens, 33:20 at this rate on one replica, with 1 sequence at once" in text
