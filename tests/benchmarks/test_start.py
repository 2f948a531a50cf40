"""The start's benchmark on the demo, and what it says where the demo does not run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.start import ROOT, main


def test_a_run_is_timed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    main(["--rounds", "1"])
    line = json.loads(capsys.readouterr().out)
    assert line["medians"][str(ROOT)] == line["seconds"][str(ROOT)][0] > 0 and line["cluster"] == "inline"


def test_what_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no checkout"):
        main([str(tmp_path), "--rounds", "1"])


def test_a_job_that_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__init__.py").touch()
    (tmp_path / "jobs" / "__main__.py").write_text("raise SystemExit('nothing works here')")
    with pytest.raises(SystemExit, match="exit code 1: nothing works here"):
        main([str(tmp_path), "--rounds", "1"])
