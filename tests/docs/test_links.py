from __future__ import annotations

import re

import pytest

from tests.docs.document import ROOT, Document

NAMES = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "examples/README.md",
    "benchmarks/RESULTS.md",
    "docker/README.md",
    "docs/reference/faults.md",
    "docs/how-to/nightly.md",
    "docs/reference/operations.md",
    "docs/explanation/scale.md",
    "docs/reference/security.md",
]


@pytest.mark.parametrize("name", NAMES)
def test_relative_links_resolve(name: str) -> None:
    document = Document(name)
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", document.prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (folder / path) if path else ROOT / name
        assert file.exists(), target
        if anchor:
            assert anchor in Document(str(file.resolve().relative_to(ROOT.resolve()))).anchors, target


@pytest.mark.parametrize("name", NAMES)
def test_a_document_begins_with_its_only_first_heading(name: str) -> None:
    headings = re.findall(r"^# .+$", Document(name).prose, re.MULTILINE)
    assert len(headings) == 1
    assert Document(name).text.startswith(headings[0])
