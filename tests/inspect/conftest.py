"""Finished outputs of the demo model, made once and copied for each test, which may then do with them as it likes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inspect.finished import Output, made, made_numbered


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Output:
    return made(tmp_path_factory.mktemp("original"))


@pytest.fixture
def output(original: Output, tmp_path: Path) -> Output:
    return original.copied(tmp_path / "out")


@pytest.fixture(scope="session")
def original_numbered(tmp_path_factory: pytest.TempPathFactory) -> Output:
    return made_numbered(tmp_path_factory.mktemp("numbered"))


@pytest.fixture
def numbered(original_numbered: Output, tmp_path: Path) -> Output:
    return original_numbered.copied(tmp_path / "numbered")
