from __future__ import annotations

import re

import pytest

from tests.docs.document import PAGES, ROOT, Document

NAMES = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "examples/README.md",
    "benchmarks/README.md",
    "benchmarks/RESULTS.md",
    "docker/README.md",
    *PAGES,
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


def test_every_page_is_linked_from_the_index() -> None:
    readme = Document("README.md").prose
    index = readme[readme.index("\n## Documentation\n") :]
    assert set(PAGES) <= set(re.findall(r"\]\(([^)\s#]+)\)", index))
