"""ARCHITECTURE.md names every folder of the code, and files that are there."""

from __future__ import annotations

import re

from tests.docs.document import ROOT, Document

ARCHITECTURE = Document("ARCHITECTURE.md")
FILE = re.compile(r"`((?:jobs|pipeline)/[\w/]+\.\w+)`")


def test_it_is_short() -> None:
    assert len(ARCHITECTURE.text.splitlines()) <= 150


def test_every_folder_has_a_line_and_every_line_a_folder() -> None:
    named = re.findall(r"^- `((?:jobs|pipeline)/[\w/]*)`: \S", ARCHITECTURE.prose, re.MULTILINE)
    found = {p.parent for room in ("jobs", "pipeline") for p in (ROOT / room).rglob("*.py")}
    assert sorted(named) == sorted(f"{folder.relative_to(ROOT)}/" for folder in found)


def test_the_files_and_folders_named_are_there() -> None:
    named = re.findall(r"`((?:jobs|pipeline|tests|conf|examples|docker|benchmarks)/[\w/.-]*)`", ARCHITECTURE.prose)
    assert "pipeline/output/part.py" in named
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_life_of_a_prompt_takes_twelve_files_at_most() -> None:
    text = ARCHITECTURE.prose
    life = text[text.index("## The life of a prompt") : text.index("## The folders")]
    steps = re.findall(r"^\d+\. `([\w/.]+)`", life, re.MULTILINE)
    assert steps == FILE.findall(life)
    assert len(set(steps)) == len(steps) <= 12


def test_the_floors_of_the_engine_are_those_of_the_contract() -> None:
    contracts = (ROOT / "pyproject.toml").read_text()
    floors = contracts[contracts.index('containers = ["pipeline.engine"]') :]
    layers = [
        re.split(r" [|:] ", x) for x in re.findall(r'^    "([\w |:]+)",$', floors.split("]\n\n")[0], re.MULTILINE)
    ]
    drawn = [b.text for b in ARCHITECTURE.blocks("text") if b.text.startswith("own ")]
    assert [re.split(r"  +", line)[0].split(" · ") for line in drawn[0].splitlines()] == layers
