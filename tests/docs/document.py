"""A Markdown document of the project, and what can be found in it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
"""Every page of docs/, by its path from the root."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its title (empty without one) and its text."""

    language: str
    title: str
    text: str


@dataclass(frozen=True)
class Document:
    name: str

    @property
    def text(self) -> str:
        return (ROOT / self.name).read_text(encoding="utf-8")

    @property
    def prose(self) -> str:
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.MULTILINE | re.DOTALL)

    @property
    def anchors(self) -> set[str]:
        """The anchors of the headings, as GitHub makes them."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def blocks(self, language: str) -> list[Block]:
        fences = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', self.text, re.MULTILINE | re.DOTALL)
        return [Block(*fence) for fence in fences if fence[0] == language]

    def commands(self) -> list[list[str]]:
        """The arguments of every `promptmill` in a shell block."""
        lines = "".join(block.text for block in self.blocks("sh")).replace("\\\n", "").splitlines()
        return [words[1:] for words in map(shlex.split, lines) if words[:1] == ["promptmill"]]

    def table(self, head: str) -> list[list[str]]:
        """The cells of the table whose first header cell is `head`, without its header."""
        start = self.text.index(f"\n| {head} |") + 1
        rows = self.text[start:].split("\n\n")[0].splitlines()[2:]
        return [[cell.strip() for cell in row.strip().strip("|").split(" | ")] for row in rows]
