"""Makes `made_output.py` importable for its neighbours, however pytest imports them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.store.local import LocalStore

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "out")
