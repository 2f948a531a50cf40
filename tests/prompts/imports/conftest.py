"""Imports as the command line does them, in a folder of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.prompts.imports.config import ImportConfig, ImportOutput, ImportSource
from pipeline.prompts.imports.importing import Imported, import_prompts

Read = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Imported]:
    """Import a file of the folder, made of `data` if that is given."""
    monkeypatch.chdir(tmp_path)

    def run(
        name: Any, data: bytes | str | None = None, source: dict[str, Any] | None = None, **options: Any
    ) -> Imported:
        if data is not None:
            (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
        target = ImportOutput(path=options.pop("target", "out.parquet"))
        if (tmp_path / target.path).is_file():
            (tmp_path / target.path).unlink()
        return import_prompts(ImportConfig(source=ImportSource(path=name, **source or {}), output=target, **options))

    return run


@pytest.fixture
def read(imported: Callable[..., Imported]) -> Read:
    """Import as above, and return the rows as pyarrow reads them."""

    def run(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
        return pq.read_table(imported(*arguments, **options).path).to_pylist()

    return run
