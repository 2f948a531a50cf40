"""README.md is short, and what it shows is so; what holds of every page is in test_pages.py."""

from __future__ import annotations

import pyarrow.parquet as pq

from pipeline.output.schema import COLUMNS
from tests.docs.document import ROOT, Document

README = Document("README.md")


def test_it_is_short() -> None:
    assert len(README.text.splitlines()) <= 150


def test_the_row_shown_has_columns_of_the_schema_and_a_prompt_of_the_demo() -> None:
    row = {name.strip("`"): value.strip("`") for name, value in README.table("column")}
    assert len(row) == 6 and set(row) <= set(COLUMNS)
    assert row["prompt"] in pq.read_table(ROOT / "examples" / "prompts.parquet")["prompt"].to_pylist()


def test_it_shows_two_commands_and_four_for_prompts_of_ones_own() -> None:
    first, second = README.blocks("sh")
    assert first.text.splitlines() == ["make demo", "make test"]
    assert len(second.text.splitlines()) == len(README.commands()) == 4
