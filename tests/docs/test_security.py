"""docs/reference/security.md names tests and modules that are there."""

from __future__ import annotations

import re

from tests.docs.document import ROOT, Document

SECURITY = Document("docs/reference/security.md")


def test_every_test_named_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", SECURITY.text)
    assert len(named) > 15
    for file, name in named:
        assert re.search(rf"^\s*def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"


def test_every_path_named_is_there() -> None:
    named = re.findall(r"`((?:pipeline|jobs|docker|tests)/[\w/.-]*)`", SECURITY.text)
    assert "docker/compose.yaml" in named
    for path in named:
        assert (ROOT / path).exists(), path


def test_every_row_of_an_attempt_names_what_holds_it() -> None:
    rows = [line for line in SECURITY.text.splitlines() if line.startswith("| ") and not line.startswith("| attempt")]
    assert len(rows) > 10
    assert all("`tests/" in row for row in rows)
