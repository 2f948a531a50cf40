from __future__ import annotations

import re

from tests.docs.document import ROOT, Document

ARCHITECTURE = Document("ARCHITECTURE.md")


def test_every_module_has_a_line_and_every_line_a_module() -> None:
    named = re.findall(r"^- `((?:jobs|pipeline)/[\w/]+\.py)`: \S", ARCHITECTURE.prose, re.MULTILINE)
    found = [p for room in ("jobs", "pipeline") for p in (ROOT / room).rglob("*.py") if p.name != "__init__.py"]
    assert sorted(named) == sorted(str(p.relative_to(ROOT)) for p in found)
