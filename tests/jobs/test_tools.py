from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import TOOLS, main
from jobs.help.page import presets
from jobs.options.keys import keys
from jobs.spec import specs
from pipeline.work.config import GenerateConfig

ROOT = Path(__file__).parents[2]


def output(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def replies(script: Path, line: str) -> list[str]:
    """What bash offers at the end of a line."""
    code = (
        f'source {script}; COMP_WORDBREAKS=" "; COMP_LINE={line!r}; COMP_POINT={len(line)}; _promptmill; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.fixture
def bash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    script = tmp_path / "completion.bash"
    script.write_text(output(capsys, "completion", "bash"))
    return script


def test_bash_completes_jobs_keys_and_presets(bash: Path) -> None:
    assert set(replies(bash, "promptmill ")) == {*specs(), *TOOLS}
    assert replies(bash, "promptmill gen") == ["generate"]
    assert replies(bash, "promptmill generate sampling.max_t") == ["sampling.max_tokens="]
    assert replies(bash, "promptmill generate model=dem") == ["model=demo"]
    everything = set(replies(bash, "promptmill generate "))
    assert {f"model={name}" for name in presets("model")} <= everything
    assert {word.partition("=")[0] for word in everything} >= set(keys(GenerateConfig))


def test_bash_completes_paths(bash: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.parquet").touch()
    place = f"source.path={tmp_path}/"
    assert replies(bash, f"promptmill generate {place}pro") == [f"{place}prompts.parquet"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "completion", shell)
    assert "sampling.max_tokens=" in text and "model=demo" in text
    if (program := shutil.which(shell)) is not None:
        (tmp_path / "script").write_text(text)
        subprocess.run([program, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.parametrize("words", [[], ["csh"], ["bash", "zsh"]])
def test_which_shell(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", *words]) == 2
    assert "completion bash, zsh, fish" in capsys.readouterr().err


def test_help_for_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "help", "verify") == output(capsys, "verify", "--help")
    assert main(["help", "genrate"]) == 2
    assert "did you mean 'generate'?" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
@pytest.mark.parametrize("job", ["generate", "import", "verify", "submit", "diff", "show", "doctor"])
def test_help_fits_the_terminal(
    columns: int, job: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = output(capsys, job, "--help").partition("\nExamples")[0].splitlines()
    prose = [line for line in lines if len(line.split()) > 1 and "promptmill" not in line and "'" not in line]
    assert max(map(len, prose)) <= min(columns, 100)


PART = "0123abcd-00000-of-00001.parquet"
ROWS = {
    "row_id": ["a", "b"], "sample_index": [0, 0], "prompt": ["x" * 300 + " the end", None], "text": ["one\ntwo", None],
    "finish_reason": ["stop", "error"], "error_code": [None, "NULL_PROMPT"], "error_message": [None, "there is no prompt"],
}  # fmt: skip


def test_look_shows_rows_and_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "seed=1" / "data").mkdir(parents=True)
    pq.write_table(pa.table(ROWS), tmp_path / "seed=1" / "data" / PART)
    shown = output(capsys, "look", str(tmp_path / "seed=1"))
    assert shown.startswith("a #0  stop\nxxx") and " the end\n→ one⏎\ntwo\n\nb #0" in shown
    errors = output(capsys, "look", str(tmp_path / "seed=1"), "--errors")
    assert errors == "b #0  error\n→ error NULL_PROMPT: there is no prompt\n\n"
    monkeypatch.chdir(tmp_path)
    assert output(capsys, "look", "seed=1") == shown, "though it looks like an override"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "output.path is required"),
        (["a", "b"], "b: not KEY=VALUE; output.path is given already"),
        (["nowhere"], "output.path=nowhere: holds no output"),
        (["nowhere", "--zzz"], "--zzz: no such flag"),
        (
            ["nowhere", "--errors", "where=n=1"],
            "--errors and where=n=1: give one of them; --errors is where=error_code!=",
        ),
    ],
)
def test_look_at_nothing(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"promptmill: {told}")


def test_look_at_a_damaged_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / PART).write_bytes(b"PAR1 and no more")
    assert main(["look", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"promptmill: {tmp_path}/data/{PART} cannot be read: ") and "promptmill verify" in line


def unread(code: str, *words: str, stream: str = "stdout") -> subprocess.CompletedProcess[str]:
    """Run a script whose output, or whose log, nobody reads any more."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: pipe}
        return subprocess.run([sys.executable, "-c", code, *words], text=True, cwd=ROOT, **streams)


RUN = "from jobs.cli import run; run()"


def test_nobody_reads_what_verify_finds(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / PART).write_bytes(b"PAR1 and no more")
    done = unread(RUN, "verify", str(tmp_path))
    assert done.returncode == 4 and "Traceback" not in done.stderr


def test_nobody_reads_a_preview_to_its_end() -> None:
    code = "import sys; from pipeline.run.show.preview import _Stdout; out = _Stdout(file=sys.stdout);"
    done = unread(f"{code} out.print('one'); out.print('two'); sys.exit(5)")
    assert (done.returncode, done.stderr) == (5, "")


def test_a_log_that_cannot_be_written_ends_no_command() -> None:
    done = unread(RUN, "generate", "sampling.n=x", stream="stderr")
    assert (done.returncode, done.stdout) == (2, "")
    code = (
        "import sys; from jobs.console.streams import prepare; prepare(); print('x', file=sys.stderr); print('goes on')"
    )
    assert unread(code, stream="stderr").stdout == "goes on\n"
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-c", code], text=True, cwd=ROOT, stdout=subprocess.PIPE, stderr=full)
    assert (done.returncode, done.stdout) == (0, "goes on\n")


def test_a_terminal_of_another_encoding_shows_escapes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, "--help"], text=True, cwd=ROOT, capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "") and r"\u2192" in done.stdout


def test_show_looks_no_further_when_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def pages(*_: object, **__: object) -> Iterator[str]:
        for page in range(5):
            asked.append(page)
            yield "a row\n"

    monkeypatch.setattr("pipeline.inspect.show.show.show", pages)
    monkeypatch.setattr("jobs.show.write", lambda text: len(asked) < 2)
    assert main(["show", "out"]) == 0
    assert asked == [0, 1]


@pytest.mark.parametrize("words", [("look",), ("help",), ("help", "generate"), ("completion", "bash"), ("--version",)])
def test_a_reader_that_has_seen_enough_is_no_error(words: tuple[str, ...], tmp_path: Path) -> None:
    if words == ("look",):
        (tmp_path / "data").mkdir()
        table = {name: ["x"] for name in ("row_id", "text", "finish_reason")}
        nulls = {name: pa.nulls(1, pa.string()) for name in ("error_code", "error_message")}
        pq.write_table(pa.table({**table, **nulls, "sample_index": [0]}), tmp_path / "data" / PART)
        words = ("look", str(tmp_path))
    done = unread(RUN, *words)
    said = [
        line for line in done.stderr.splitlines() if not line.endswith(" INFO starting")
    ]  # which a busy machine says
    assert (done.returncode, said) == (0, [])


def test_what_is_shown_of_a_row_moves_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    row = {
        name: ["\x1b[2J\x07x"] for name in ("row_id", "prompt", "text", "finish_reason", "error_code", "error_message")
    }
    pq.write_table(pa.table({**row, "sample_index": [0]}), tmp_path / "data" / PART)
    assert main(["look", str(tmp_path)]) == 0
    assert not set("\x1b\x07") & set(capsys.readouterr().out)
