"""The table of faults names tests that are there, and has every fault."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
ROWS = [
    line
    for line in (REPOSITORY / "docs" / "reference" / "faults.md").read_text().splitlines()
    if re.match(r"\| \d+ \|", line)
]


def test_every_fault_has_a_row() -> None:
    numbers = [int(row.split("|")[1]) for row in ROWS]
    assert numbers == sorted(set(numbers)) and set(range(1, 43)) <= set(numbers)


def test_every_row_names_tests_that_are_there() -> None:
    for row in ROWS:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, name in named:
            assert re.search(rf"^\s*def {name}\(", (REPOSITORY / file).read_text(), re.MULTILINE), f"{file}::{name}"
