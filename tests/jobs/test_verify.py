"""The command line of `verify`; what it finds is tested in tests/inspect."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.verify import main
from tests.small_runs import messages

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "output.path is required: the output's folder"),
        (["output.path=x", "replay=-1"], "replay=-1: must be 0 (none) or a number of rows"),
        (["output.path=x", "replay=few"], "replay=few: must be a whole number"),
        (["output.path="], "output.path='': must be a directory or a URI"),
        (["output.path=x", "sampling.n=2"], "sampling.n: no such key; "),
        (["output.path=x", "output.compression=none"], "output.compression: no such key; output has path"),
        (["no/such/folder"], "output.path=no/such/folder: holds no output: neither"),
        (["a", "b"], "b: "),
        (["output.path=x"], "output.path=x: holds no output: neither"),
        (
            ["output.path=hf://datasets/x"],
            "output.path='hf://datasets/x': must be a directory, or a URI that begins with file://, s3://",
        ),
    ],
)
def test_what_is_refused(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    (line,) = messages(err)
    assert out == "" and line.startswith(f"promptmill: {told}"), err


def test_no_torch_without_a_replay(tmp_path: Path) -> None:
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "out" / "data" / "0123abcd-00000-of-00001.parquet").touch()
    code = (
        "import sys; from jobs.cli import main; code = main(sys.argv[1:]);"
        "print('LOADED', [m for m in ('torch', 'transformers', 'ray') if m in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "verify", f"output.path={tmp_path / 'out'}"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()[-1]) == (4, "LOADED []"), done.stderr


SLOW = """
import sys
from pipeline.inspect.verify import verify
verify.verify = lambda *_, **__: open(sys.argv[1]).read()
from jobs.console.leave import leave
from jobs.verify import main
from tests.small_runs import messages
leave(main(["output.path=out"]))
"""
"""A verification that waits: it reads a pipe into which nobody writes."""


def test_a_signal_ends_it_with_its_code(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-c", SLOW, str(tmp_path / "pipe")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            pipe = opened_when_read(tmp_path / "pipe")
            wait_until_asleep(process.pid)  # a signal just before the system call would not interrupt it
            process.send_signal(signal.SIGTERM)
            _, told = process.communicate(timeout=900)
            os.close(pipe)
        finally:
            process.kill()
    assert (process.returncode, told.splitlines()[-1]) == (143, "promptmill: stopped by SIGTERM")


def wait_until_asleep(pid: int) -> None:
    """Wait until a process has been found asleep some times in a row."""
    asleep = 0
    for _ in range(18_000):
        asleep = asleep + 1 if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S" else 0
        if asleep == 5:
            return
        time.sleep(0.05)
    raise AssertionError("it does not wait for the pipe")


def opened_when_read(path: Path) -> int:
    """Open a pipe for writing as soon as somebody has opened it for reading."""
    for _ in range(18_000):
        with contextlib.suppress(OSError):
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.05)
    raise AssertionError("nobody reads it")
