"""Small Parquet files to read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import small_runs

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a table (or columns) to a file below the test's folder; return its path."""

    def write(name: str, columns: Any = None, **options: Any) -> Path:
        return small_runs.write({"prompt": ["a", "b"]} if columns is None else columns, tmp_path / name, **options)

    return write
