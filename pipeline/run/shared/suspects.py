"""Finds the rows that end or hang replicas: a shard that two replicas died with is tried in halves until single rows are left.

It is told what happened to each trial, and says what to try next. What it knows is kept with the output before a trial
begins, so that a search goes on where the last driver left it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.errors import WorkerFailed
from pipeline.store.base import Store
from pipeline.store.door import fetch, parse
from pipeline.types import ErrorCode, Shard, Task

SUSPECTS = "_job/suspects/"
DEATHS = 2
"""Replicas that may die with the same rows in hand before these rows are searched, or a single row is blamed."""
UNEXPLAINED = 4
"""Drivers that may end with the same rows in hand before that counts as a death: most are killed by something else."""
SEARCHES = 2
"""Searches of one shard; a third would not find more."""
MOST_BYTES = 1 << 20
"""Bytes of what is known of a shard."""
GUILTY = 8
"""Rows of one shard that may be blamed; with more, something else is wrong."""

_log = logging.getLogger(__name__)


@dataclass
class Suspect:
    """A shard under suspicion.

    Attributes:
        shard: Its number.
        rows: Its input rows.
        deaths: Replicas that died with what is tried now.
        unexplained: Drivers that ended while it was tried.
        open: Row ranges still to be tried, the next one first; none: the whole shard is tried.
        guilty: Row → why: what its replica did.
        searches: How often the shard was searched.
    """

    shard: int
    rows: int
    deaths: int = 0
    unexplained: int = 0
    open: list[tuple[int, int]] = field(default_factory=list)
    guilty: dict[int, ErrorCode] = field(default_factory=dict)
    searches: int = 0

    @property
    def alone(self) -> bool:
        """Whether it must have a replica for itself, so that a death tells something."""
        return bool(self.open) or self.deaths > 0 or self.unexplained >= DEATHS

    @property
    def trial(self) -> tuple[int, int] | None:
        """The rows to be tried; null: all of them, to be written."""
        return self.open[0] if self.open else None

    def passed(self) -> None:
        """A replica lived through what was tried."""
        self.deaths = self.unexplained = 0
        if self.open:
            self.open.pop(0)

    def driver_ended(self) -> None:
        """The driver ended while it was tried, and so perhaps, but not likely, for that reason."""
        self.unexplained += 1
        if self.unexplained >= UNEXPLAINED:
            self.died(ErrorCode.WORKER_CRASH)

    def died(self, code: ErrorCode) -> None:
        """A replica died of what was tried.

        Raises:
            WorkerFailed: If no row can be blamed for it, or too many would have to be.
        """
        self.unexplained = 0
        self.deaths += 1
        if not self.open:
            if self.deaths >= DEATHS:
                self._search()
            return
        start, stop = self.open[0]
        if stop - start > 1:
            self.deaths = 0
            self.open[:1] = _halves(start, stop)
        elif self.deaths >= DEATHS:
            self._blame(start, stop, code)

    def _search(self) -> None:
        self.deaths = 0
        self.searches += 1
        if self.searches > SEARCHES:
            raise WorkerFailed(
                f"shard {self.shard}: replicas keep dying with all of its rows in hand, and with none of them alone; give a "
                "replica more memory, or make engine.max_num_seqs or output.rows_per_shard smaller in a new output"
            )
        # First no rows at all: if reading the shard is what kills, no row is to blame.
        self.open = [(0, 0), *_halves(0, self.rows)]

    def _blame(self, start: int, stop: int, code: ErrorCode) -> None:
        if start == stop:
            raise WorkerFailed(
                f"shard {self.shard}: replicas die while they read it, before any row is used; is an input file damaged?"
            )
        self.guilty[start] = code
        self.passed()
        if len(self.guilty) > GUILTY:
            raise WorkerFailed(
                f"shard {self.shard}: more than {GUILTY} of its rows end their replicas; that is hardly the rows' fault: "
                "look at the replicas' memory and at the events in _job/events"
            )

    def to_json(self) -> bytes:
        """The content of its file."""
        body = {
            "rows": self.rows, "deaths": self.deaths, "unexplained": self.unexplained, "open": self.open,
            "guilty": self.guilty, "searches": self.searches,
        }  # fmt: skip
        return (json.dumps(body) + "\n").encode()

    @classmethod
    def from_json(cls, shard: int, data: bytes) -> Suspect:
        """Read its file.

        Raises:
            ValueError: If it is not one.
        """
        body = parse(data, _Body)
        ranges = [(r[0], r[1]) for r in body.open if len(r) == 2 and 0 <= r[0] <= r[1] <= body.rows]
        guilty = {int(row): ErrorCode(code) for row, code in body.guilty.items()}
        if len(ranges) != len(body.open) or any(not 0 <= row < body.rows for row in guilty):
            raise ValueError("it speaks of rows that the shard does not have")
        return cls(shard, body.rows, body.deaths, body.unexplained, ranges, guilty, body.searches)


@dataclass(frozen=True)
class _Body:
    """The form of a suspect's file."""

    rows: int
    deaths: int
    unexplained: int
    open: tuple[tuple[int, ...], ...]
    guilty: Mapping[str, str]
    searches: int


@dataclass
class Suspects:
    """All shards of an output that are under suspicion, kept with it."""

    store: Store
    _known: dict[int, Suspect] = field(default_factory=dict)
    _kept: set[int] = field(default_factory=set)

    def load(self) -> None:
        """See which there are; each is read when it is asked for."""
        numbers = (file.name.removeprefix(SUSPECTS) for file in self.store.list(SUSPECTS))
        self._kept = {int(number) for number in numbers if number.isdigit()}

    def get(self, shard: Shard) -> Suspect:
        """What is known of a shard; a fresh one if nothing is."""
        if shard.index not in self._known:
            self._known[shard.index] = self._read(shard)
        return self._known[shard.index]

    def is_known(self, index: int) -> bool:
        """Whether anything was ever held against a shard."""
        return index in self._known or index in self._kept

    def keep(self, suspect: Suspect) -> None:
        """Write down what is known; before the next trial."""
        self._known[suspect.shard] = suspect
        self._kept.add(suspect.shard)
        self.store.put(_name(suspect.shard), suspect.to_json())

    def has_begun(self, task: Task) -> bool:
        """Whether a replica put its witness: one that was dead before is no evidence."""
        if task.witness is None:
            return True
        try:
            return fetch(self.store, task.witness, MOST_BYTES) == str(task.attempt).encode()
        except (FileNotFoundError, ValueError):
            return False

    def clear(self, index: int) -> None:
        """The shard is committed. What rows are guilty stays known, in case its part is lost and made again."""
        suspect = self._known.pop(index, None)
        if index in self._kept:
            self.store.delete(witness(index))
        if index in self._kept and not (suspect and suspect.guilty):
            self.store.delete(_name(index))
            self._kept.discard(index)

    def _read(self, shard: Shard) -> Suspect:
        if shard.index in self._kept:
            try:
                found = Suspect.from_json(shard.index, fetch(self.store, _name(shard.index), MOST_BYTES))
                if found.rows == shard.rows:
                    return found
                raise ValueError(f"it has {found.rows} rows, the shard {shard.rows}")
            except FileNotFoundError:
                pass
            except ValueError as error:
                _log.warning("%s is ignored: %s", _name(shard.index), error)
        return Suspect(shard.index, shard.rows)


def _halves(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The ranges to try in place of one that kills; a single row has no halves."""
    middle = (start + stop + 1) // 2
    yield from ((a, b) for a, b in ((start, middle), (middle, stop)) if a < b)


def witness(index: int) -> str:
    """The stored name of the file that a replica puts when it begins with a shard under suspicion."""
    return f"{_name(index)}.begun"


def _name(index: int) -> str:
    return f"{SUSPECTS}{index:05d}"
