"""The reference documentation of the options is what the options say."""

from __future__ import annotations

from pathlib import Path

from jobs.options.document import document

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "options.md"


def test_the_page_is_as_make_options_writes_it() -> None:
    assert PAGE.read_text(encoding="utf-8") == document()
