"""The nightly examples: what they start composes, for the night they say, and is started when they say."""

from __future__ import annotations

import configparser
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from jobs.options.arguments import parse
from jobs.options.compose import compose_runs
from pipeline.work.config import GenerateConfig
from tests.docker.manifests import shell_words
from tests.docs.document import ROOT, Document

NIGHTLY = ROOT / "examples" / "nightly"


def unit(name: str) -> configparser.RawConfigParser:
    read = configparser.RawConfigParser(strict=False)
    read.optionxform = str  # type: ignore[method-assign, assignment]
    read.read_string(re.sub(r"\\\n\s*", "", (NIGHTLY / name).read_text()))
    return read


def crontab() -> list[tuple[list[str], str]]:
    """The times and the command of each line, the command as cron hands it to the shell."""
    lines = [x for x in (NIGHTLY / "crontab").read_text().splitlines() if x and not x.startswith("#")]
    jobs = [line for line in lines if not re.match(r"\w+=", line)]
    split = [line.split(None, 5) for line in jobs]
    assert not [line for line in jobs if re.search(r"(?<!\\)%", line)]  # cron would end the line there
    return [(fields[:5], fields[5].replace("\\%", "%")) for fields in split]


def of_systemd() -> str:
    """The script of the service, as systemd hands it to the shell."""
    written = unit("promptmill-nightly.service")["Service"]["ExecStart"]
    given = re.fullmatch(r"/bin/sh -c '(.*)'", written)
    assert given is not None
    return given[1].replace("$$", "$").replace("%%", "%")


def promptmill(command: str) -> list[str]:
    """The words of the only `promptmill` in a shell's line."""
    (found,) = re.findall(r"\bpromptmill (generate .*?)(?: >>.*)?$", command)
    return shell_words(found)


@pytest.mark.parametrize("command", [crontab()[0][1], of_systemd()], ids=["crontab", "systemd"])
def test_a_start_composes_and_its_folder_has_the_date_of_the_evening(command: str) -> None:
    job, *words = promptmill(command)
    (run,) = compose_runs(job, GenerateConfig, parse(words))
    assert run.config is not None
    evening = datetime.now() - timedelta(hours=12)
    assert run.config.output.path == f"outputs/{evening:%Y-%m-%d}"
    assert run.config.deadline == "06:00"


def test_cron_starts_at_night_alone_and_one_at_a_time() -> None:
    ((times, command),) = crontab()
    assert times == ["0,30", "22-23,0-5", "*", "*", "*"]
    assert "flock -n " in command


@pytest.mark.parametrize(("hour", "night"), [(h, h >= 22 or h < 6) for h in range(24)])
def test_the_service_starts_at_night_alone(hour: int, night: bool, tmp_path: Path) -> None:
    written = unit("promptmill-nightly.service")["Service"]["ExecCondition"]
    given = re.fullmatch(r"/bin/sh -c '(.*)'", written)
    assert given is not None
    script = given[1].replace("$$", "$").replace("%%", "%")
    (tmp_path / "date").write_text(f"#!/bin/sh\necho {hour:02d}\n")
    (tmp_path / "date").chmod(0o755)
    answer = shell_words(f'"$(PATH={tmp_path}:$PATH; if {script}; then echo yes; else echo no; fi)"')
    assert answer == ["yes" if night else "no"]


def test_the_service_tries_again_what_can_go_on_and_nothing_else() -> None:
    service = unit("promptmill-nightly.service")["Service"]
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"].split() == ["2", "3", "130"]
    assert service["SuccessExitStatus"] == "143"
    assert int(service["TimeoutStopSec"]) > 10
    assert service["KillMode"] == "mixed"
    assert "exec promptmill" in of_systemd()  # so that SIGTERM reaches the job and not a shell
    timer = unit("promptmill-nightly.timer")["Timer"]
    assert (timer["OnCalendar"], timer["Persistent"]) == ("*-*-* 22:00:00", "true")


@pytest.mark.parametrize("name", ["docs/how-to/nightly.md", "docker/README.md"])
def test_a_command_of_the_pages_composes(name: str) -> None:
    lines = "".join(block.text for block in Document(name).blocks("sh")).replace("\\\n", "")
    commands = re.findall(r"\bpromptmill (generate .*)$", lines, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        job, *words = shell_words(command)
        assert all(run.config is not None for run in compose_runs(job, GenerateConfig, parse(words)))
