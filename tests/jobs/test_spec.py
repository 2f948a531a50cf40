"""A job is its module, its configuration and its yaml: nothing else names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.small_runs import copy_of_the_code, promptmill

MODULE = '''"""`promptmill count`: counts the files of an output."""

from dataclasses import dataclass, field
from pathlib import Path

from jobs.spec import JobSpec
from pipeline.errors import ConfigurationError, ExitCode


@dataclass(kw_only=True)
class CountConfig:
    """Everything `count` can be told."""

    path: str = field(default="???", metadata={"help": "the folder"})
    pattern: str = field(default="*", metadata={"help": "which files count"})


def run(config: CountConfig, _: str) -> int:
    """Print the number."""
    if not Path(config.path).is_dir():
        raise ConfigurationError(f"path={config.path}: there is no such folder")
    print(len(list(Path(config.path).glob(config.pattern))))
    return ExitCode.COMPLETE


JOB = JobSpec(name="count", summary="counts files", schema=CountConfig, run=run, examples=(("all", "promptmill count path=."),))
'''
PRESET = "defaults:\n  - count_schema\n  - _self_\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with one more module in `jobs` and one more yaml in `conf`."""
    folder = copy_of_the_code(tmp_path_factory.mktemp("project"))
    (folder / "jobs" / "count.py").write_text(MODULE)
    (folder / "conf" / "count.yaml").write_text(PRESET)
    return folder


def test_it_is_listed_with_its_line(project: Path) -> None:
    assert "  count       counts files\n" in promptmill(project, "--help").stdout


def test_it_has_a_page(project: Path) -> None:
    page = promptmill(project, "count", "--help").stdout
    assert page.startswith("promptmill count: counts files\n")
    assert "  path                           the folder (required)\n" in page
    assert "  pattern                        which files count [*]\n" in page


def test_it_is_completed(project: Path) -> None:
    assert "pattern=" in promptmill(project, "completion", "bash").stdout


def test_it_runs_and_refuses_like_every_job(project: Path) -> None:
    done = promptmill(project, "count", f"path={project / 'conf'}", "pattern=*.yaml")
    assert (done.returncode, int(done.stdout)) == (0, len(list((project / "conf").glob("*.yaml"))))
    assert promptmill(project, "count", "path=nowhere").stderr == "promptmill: path=nowhere: there is no such folder\n"
    wrong = promptmill(project, "count", "path=.", "patern=x")
    assert (wrong.returncode, wrong.stderr) == (2, "promptmill: patern: no such key; did you mean pattern?\n")
