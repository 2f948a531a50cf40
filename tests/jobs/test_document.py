"""The generated reference pages are what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.help.document import PAGES

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_make_options_writes_it(name: str) -> None:
    assert (FOLDER / f"{name}.md").read_text(encoding="utf-8") == PAGES[name]()
