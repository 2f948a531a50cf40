from __future__ import annotations

import re
from datetime import date

from pipeline import __version__
from tests.docs.document import Document

CHANGELOG = Document("CHANGELOG.md")


def test_the_latest_version_is_this_one() -> None:
    versions = re.findall(r"^## \[(\d[^\]]*)\] - (\S+)$", CHANGELOG.prose, re.MULTILINE)
    assert versions[0][0] == __version__
    days = [date.fromisoformat(day) for _, day in versions]
    assert days == sorted(days, reverse=True)
