"""The command line of `diff`; what it finds is tested in tests/inspect/diff."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.diff import main


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "a is required: an output's folder, e.g. promptmill diff outputs/first outputs/second"),
        (["one"], "b is required: another output's folder"),
        (["one", "two", "three"], "three: not KEY=VALUE; a and b are given already"),
        (["a=", "b=x"], "a='': must be a directory or a URI"),
        (["one", "two"], "a=one: holds no output: neither"),
        (
            ["one", "two", "json=no/such/folder/x.json"],
            "json='no/such/folder/x.json': must be a file in an existing folder",
        ),
        (["one", "two", "html=."], "html='.': must be a file; this is a folder"),
        (["one", "two", "html="], "html='': must be a file, which is written or replaced"),
        (["one", "two", "output.path=x"], "output.path: no such key"),
        (["one", "two", "--html"], "--html: no such flag"),
        (["one", "two", "jsn=x"], "jsn: no such key; did you mean json?"),
        (["ftp://x", "two"], "a='ftp://x': must be a directory, or a URI"),
    ],
)
def test_mistakes_are_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith(f"promptmill: {told}"), line


def test_a_file_in_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["one", "two", "json=/proc/x.json"]) == 2
    assert "nothing can be written in /proc; name another file" in capsys.readouterr().err or tmp_path
