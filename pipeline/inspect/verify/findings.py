"""Findings about an output: one line per finding says where, what is wrong, and how to repair it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.wording import one_line

AGAIN = "run the same command again"
REMAKE = f"{AGAIN}, which sets this file aside and makes just this part"
REWRITE = f"{AGAIN}, which sets this file aside and writes it anew; the parts stay"
MOVE = f"{AGAIN}, which sets it aside"
ELSEWHERE = "move it elsewhere"
LONGEST = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect.

    Attributes:
        file: The stored name of the file.
        what: What is wrong with it, as a phrase.
        remedy: What to do, as a phrase.
        place: Where in the file: a row group, a row, a column; empty for all of it.
    """

    file: str
    what: str
    remedy: str = REMAKE
    place: str = ""

    def __str__(self) -> str:
        """Return the line for the user."""
        where = f"{self.file}: {self.place}" if self.place else self.file
        return f"{one_line(f'{where}: {self.what}', LONGEST)}; {self.remedy}"


@dataclass(slots=True)
class RowFindings:
    """The findings about the rows of one part: per kind, the first row and the number of further rows."""

    file: str
    _first: dict[str, Finding] = field(default_factory=dict)
    _rows: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, place: str, what: str, rows: int = 1) -> None:
        """Add `rows` rows with the same defect, the first of them at `place`."""
        self._first.setdefault(kind, Finding(self.file, what, place=place))
        self._rows[kind] = self._rows.get(kind, 0) + rows

    def all(self) -> list[Finding]:
        """Return one finding per kind."""
        return [_counted(finding, self._rows[kind] - 1) for kind, finding in self._first.items()]


def _counted(finding: Finding, more: int) -> Finding:
    if not more:
        return finding
    rows = f"{more:,} more row" + ("s" if more > 1 else "")
    return Finding(finding.file, f"{finding.what} (and {rows})", finding.remedy, finding.place)
