"""Finds the rows that kill or hang replicas: a shard that two replicas died with is tried in halves, down to single rows.

It records the result of each trial and decides what to try next. It stores its state with the output before each trial, so
that the next driver continues the search.
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
"""How many replicas may die with the same rows before these are searched, or a single row is blamed."""
UNEXPLAINED = 4
"""How many drivers may end with the same rows before that counts as a death: most are killed by something else."""
SEARCHES = 2
"""Most searches of one shard; another would not find more."""
MOST_BYTES = 1 << 20
"""Most bytes of a suspect's file."""
GUILTY = 8
"""Most rows of one shard that may be blamed; with more, something else is wrong."""

_log = logging.getLogger(__name__)


@dataclass
class Suspect:
    """A shard under suspicion.

    Attributes:
        shard: Its number.
        rows: Its input rows.
        deaths: Number of replicas that died with the rows of the current trial.
        unexplained: Number of drivers that ended during it.
        open: Row ranges still to try, the next one first; empty: the whole shard is tried.
        guilty: Row → what happened to its replica.
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
        """Whether it must have a replica for itself, so that a death is conclusive."""
        return bool(self.open) or self.deaths > 0 or self.unexplained >= DEATHS

    @property
    def trial(self) -> tuple[int, int] | None:
        """The rows to try; None: all rows, and write the part."""
        return self.open[0] if self.open else None

    def passed(self) -> None:
        """Record that a replica survived the trial."""
        self.deaths = self.unexplained = 0
        if self.open:
            self.open.pop(0)

    def driver_ended(self) -> None:
        """Record that the driver ended during the trial, which is perhaps, but not likely, the reason."""
        self.unexplained += 1
        if self.unexplained >= UNEXPLAINED:
            self.died(ErrorCode.WORKER_CRASH)

    def died(self, code: ErrorCode) -> None:
        """Record that a replica died in the trial.

        Raises:
            WorkerFailed: If no row can be blamed for it, or too many would be.
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
                f"shard {self.shard}: replicas keep dying with all of its rows in flight, and with none of them alone; give a "
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
                f"shard {self.shard}: more than {GUILTY} of its rows kill their replicas; the rows are probably not the cause: "
                "look at the replicas' memory and at the events in _job/events"
            )

    def to_json(self) -> bytes:
        """Return the content of its file."""
        body = {
            "rows": self.rows, "deaths": self.deaths, "unexplained": self.unexplained, "open": self.open,
            "guilty": self.guilty, "searches": self.searches,
        }  # fmt: skip
        return (json.dumps(body) + "\n").encode()

    @classmethod
    def from_json(cls, shard: int, data: bytes) -> Suspect:
        """Read its file.

        Raises:
            ValueError: If it is not such a file.
        """
        body = parse(data, _Body)
        ranges = [(r[0], r[1]) for r in body.open if len(r) == 2 and 0 <= r[0] <= r[1] <= body.rows]
        guilty = {int(row): ErrorCode(code) for row, code in body.guilty.items()}
        if len(ranges) != len(body.open) or any(not 0 <= row < body.rows for row in guilty):
            raise ValueError("it names rows that the shard does not have")
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
        """List the suspects; each file is read when it is needed."""
        numbers = (file.name.removeprefix(SUSPECTS) for file in self.store.list(SUSPECTS))
        self._kept = {int(number) for number in numbers if number.isdigit()}

    def get(self, shard: Shard) -> Suspect:
        """Return a shard's suspect, read from its file; a new one if there is none."""
        if shard.index not in self._known:
            self._known[shard.index] = self._read(shard)
        return self._known[shard.index]

    def keep(self, suspect: Suspect) -> None:
        """Store the state; call it before the next trial."""
        self._known[suspect.shard] = suspect
        self._kept.add(suspect.shard)
        self.store.put(_name(suspect.shard), suspect.to_json())

    def has_begun(self, task: Task) -> bool:
        """Whether a replica wrote the task's marker; if it died before that, its death is no evidence."""
        if task.witness is None:
            return True
        try:
            return fetch(self.store, task.witness, MOST_BYTES) == str(task.attempt).encode()
        except (FileNotFoundError, ValueError):
            return False

    def clear(self, index: int) -> None:
        """Clear a committed shard. Its guilty rows stay known, in case the part is lost and made again."""
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
    """Yield the ranges to try in place of one that kills; none for a single row."""
    middle = (start + stop + 1) // 2
    yield from ((a, b) for a, b in ((start, middle), (middle, stop)) if a < b)


def witness(index: int) -> str:
    """Return the stored name of the marker that a replica writes when it begins a shard under suspicion."""
    return f"{_name(index)}.begun"


def _name(index: int) -> str:
    return f"{SUSPECTS}{index:05d}"
