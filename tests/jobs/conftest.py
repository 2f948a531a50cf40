"""A driver that starts nothing: it keeps what it was told and answers what it is asked to."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.work.config import GenerateConfig


@dataclass
class FakeDriver:
    calls: list[tuple[GenerateConfig, str]] = field(default_factory=list)
    answer: Callable[[GenerateConfig], int] = lambda config: 0

    def run_job(self, config: GenerateConfig, *, config_yaml: str, recipe: str, accepted: Callable[[], None]) -> Any:
        accepted()
        self.calls.append((config, config_yaml))
        return types.SimpleNamespace(exit_code=self.answer(config), worked=True)

    @property
    def config(self) -> GenerateConfig:
        (call,) = self.calls
        return call[0]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal as wide as help pages like it, whatever the tests run in."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    module = types.ModuleType("pipeline.run.driver")
    module.run_job = fake.run_job  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipeline.run.driver", module)
    monkeypatch.setattr("jobs.report.report_of_a_run", lambda path, *, worked: None)  # there is no output
    return fake


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Run in an empty folder, which has to be empty afterwards: a job leaves nothing lying about."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the embedded model and prompts."""
    folder = tmp_path / "examples"
    (folder / "demo-model").mkdir(parents=True)
    (folder / "prompts.parquet").touch()
    monkeypatch.setattr("jobs.options.schema.EXAMPLES", folder)
    return folder
