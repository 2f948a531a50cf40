"""The reference documentation of options and columns is what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.options.document import columns, options

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize(("name", "written"), [("options", options), ("columns", columns)])
def test_a_page_is_as_make_options_writes_it(name: str, written: object) -> None:
    assert callable(written)
    assert (FOLDER / f"{name}.md").read_text(encoding="utf-8") == written()
