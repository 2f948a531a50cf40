"""What a killed job leaves behind is ended and removed by the process that waited beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.run.cluster.guardian import MARK, Guardian, clean_up, left

REPOSITORY = Path(__file__).parents[3]
SLEEPER = [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"]
PATIENCE = 900.0
"""Seconds after which something that must happen is taken not to, on the busiest machine."""


def gone(pid: int) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_closing_ends_what_was_started_and_removes_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pipeline.run.cluster.guardian.GRACE", PATIENCE
    )  # for which it waits here; its process has its own
    guardian = Guardian()
    assert Path(guardian.folder).is_dir()
    # This process writes to the folder, too, as a driver's part of Ray does.
    with Path(guardian.folder, "driver.log").open("w"), subprocess.Popen(SLEEPER) as child:  # it inherits the mark
        Path(guardian.folder, "socket").touch()
        guardian.close()
        assert gone(child.pid)
    assert not Path(guardian.folder).exists()
    assert MARK not in os.environ


def test_the_death_of_the_job_is_seen() -> None:
    code = f"""
import subprocess, sys
from pipeline.run.cluster.guardian import Guardian
guardian = Guardian()
child = subprocess.Popen({SLEEPER!r}, start_new_session=True)
print(guardian.folder, child.pid, flush=True)
sys.stdin.read()
"""
    job = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdin=-1, stdout=-1, text=True)
    assert job.stdout is not None
    folder, child = job.stdout.readline().split()
    job.send_signal(signal.SIGKILL)
    job.communicate()
    assert gone(int(child))
    end = time.monotonic() + PATIENCE
    while Path(folder).exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not Path(folder).exists()


def test_others_are_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEPER, env={**os.environ, MARK: "another"}) as other:
        assert other.pid in left("another", str(tmp_path / "folder"), 0)
        clean_up("none", str(tmp_path / "folder"), 0, grace=0.0)
        assert other.poll() is None
        other.kill()


def test_a_process_whose_title_hides_its_environment_is_known_by_its_log(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with (folder / "agent.log").open("w") as log:
        agent = subprocess.Popen(SLEEPER, stdout=log, env={})
    with (folder / "agent.log").open() as log:
        reader = subprocess.Popen(SLEEPER, stdin=log, env={})
    with agent, reader:
        clean_up("none", str(folder), 0, grace=0.0)
        assert gone(agent.pid)
        assert reader.poll() is None
        reader.kill()
    assert not folder.exists()
