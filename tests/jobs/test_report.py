"""The command line of `report`, and the report at the end of a run; what is in it is tested in tests/inspect/report."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.report import main
from tests.small_runs import generate, write


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "output.path is required: the output's folder"),
        (["nowhere"], "output.path=nowhere: holds no output: neither"),
        (["a", "b"], "b: not KEY=VALUE; output.path is given already"),
        (["output.path=a", "b"], "b: not KEY=VALUE; output.path is given already"),
        (["a", "output.report=true"], "output.report: no such key; output has path"),
        (["a", "--pdf"], "--pdf: no such flag"),
        (["hf://x"], "output.path='hf://x': must be a directory, or a URI that begins with"),
    ],
)
def test_what_is_refused(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert err.startswith(f"promptmill: {told}"), err


def test_a_run_writes_it_once_and_again_when_it_is_gone_and_never_fails_for_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = write({"prompt": ["Once there was", "The train to"]}, tmp_path / "in" / "p.parquet")
    page = tmp_path / "out" / "report.html"
    assert generate(source, tmp_path / "out") == 0
    assert not page.exists(), "tests have output.report=false"

    def fail(*_: object) -> str:
        raise OSError("no plots today")

    with monkeypatch.context() as patched:
        patched.setattr("jobs.report._written", fail)
        assert generate(source, tmp_path / "out", "output.report=true") == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert len(warnings) == 1 and "no plots today; the output is complete" in warnings[0]
    assert generate(source, tmp_path / "out", "output.report=true") == 0
    first = page.stat()
    assert f"report  {page}" in capsys.readouterr().err
    assert generate(source, tmp_path / "out", "output.report=true") == 0
    assert page.stat().st_mtime_ns == first.st_mtime_ns, "a report that is there stays"
