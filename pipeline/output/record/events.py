"""Logs events as JSON lines, in one file per driver, which is rewritten as it grows and stays within bounds.

Events that come with every shard are logged one by one until the file is large, and only counted after that.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from pipeline.errors import PromptmillError
from pipeline.store.base import Store, checked_name

DETAIL_BYTES = 16_000_000
"""Size in bytes up to which frequent events are logged one by one: about 40,000 shards."""
SUMMARY_SECONDS = 60.0
"""Seconds in which frequent events are counted together."""
BYTES_A_SECOND = 200_000
"""Average bytes per second to write. Each write rewrites the whole file, so a large file is written rarely."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """An event that a driver logs, for the documentation.

    Attributes:
        name: The value of `event` in its line.
        meaning: What happened.
        facts: The other values of its line, besides `time`.
    """

    name: str
    meaning: str
    facts: tuple[str, ...]


EVENTS = {
    event.name: event
    for event in (
        Event("plan", "the driver has a plan, and the output's folder holds it", ("plan_id", "rows", "rows_per_shard")),
        Event("driver_start", "the driver starts: `missing` parts of `shards` are to make", ("plan_id", "shards", "missing")),
        Event("driver_stop", "the driver ended: `complete`, or the name of the error that ended it", ("reason", "exit_code")),
        Event("replica_up", "a replica has loaded its model", ("replica", "node")),
        Event("replica_leaving", "a replica's node is preempted or drained; the replica gets no new shards", ("replica",)),
        Event(
            "replica_down", "a replica is gone, with these shards in flight; `counts`: its death counts against their rows",
            ("replica", "reason", "shards", "counts"),
        ),
        Event("shard_claimed", "the driver claimed a shard", ("shard",)),
        Event("shard_taken_over", "the driver took over the shard of a dead driver", ("shard",)),
        Event(
            "shard_started", "a replica was given a shard, or, in a search for deadly rows, the rows `trial` of it",
            ("shard", "attempt", "replica", "trial"),
        ),
        Event("shard_copied", "an idle replica also does a shard that the replica `of` has", ("shard", "replica", "of")),
        Event(
            "shard_slow", "a shard has been in flight for so long that a stop would lose more work than it should; logged once",
            ("shard", "rows", "minutes"),
        ),
        Event(
            "shard_committed", "a part is there; `already_there`: another replica or driver committed it first",
            ("shard", "file", "rows", "completion_tokens", "already_there"),
        ),
        Event(
            "progress", "from time to time: rows done, tokens generated, sequences that run, wait and may run, replicas",
            ("rows", "tokens", "running", "waiting", "capacity", "replicas"),
        ),
        Event(
            "summary", "in a large log: how often each frequent event came in the last `seconds`, and the sums of its facts",
            ("seconds", "shard_committed", "rows", "completion_tokens"),
        ),
        Event("bisected", "the driver searches a shard for rows that end replicas; `open`: what to try", ("shard", "open")),
        Event("trial_passed", "these rows of a shard ended no replica", ("shard", "rows")),
        Event("row_blamed", "this row, counted within the shard, becomes an error with this code", ("shard", "row", "code")),
    )
}  # fmt: skip
"""Every event, by name. A line may lack a fact: `trial` is there in trials only."""


class EventLog:
    """A driver's event log. Thread-safe; a log that cannot be written does not stop the job."""

    def __init__(self, store: Store, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start an empty log.

        Args:
            store: Where the file is.
            name: The file's stored name.
            clock: A monotonic clock, seconds, for the intervals between writes.

        Raises:
            ValueError: If the name is not a valid stored name.
        """
        self._store, self._name, self._clock = store, checked_name(name), clock
        self._data = bytearray()
        self._written = 0
        self._counts: Counter[str] = Counter()
        self._counting_since = 0.0
        self._next_write = float("-inf")
        self._lock = threading.Lock()

    def add(self, event: str, **facts: Any) -> None:
        """Add a line with the time, the event and its facts; values that JSON cannot represent become their `str`."""
        with self._lock:
            self._summarise(every=SUMMARY_SECONDS)
            self._append(event, facts)
            self._write_now_and_then()

    def add_frequent(self, event: str, *, sums: Sequence[str] = (), **facts: Any) -> None:
        """Add an event that comes with every shard: a line, or in a large file one more in the next `summary`.

        Args:
            event: Its name; a summary counts events by name.
            sums: The facts, whole numbers, that a summary adds up.
            facts: As for `add`.
        """
        with self._lock:
            self._summarise(every=SUMMARY_SECONDS)
            if len(self._data) < DETAIL_BYTES:
                self._append(event, facts)
            else:
                if not self._counts:
                    self._counting_since = self._clock()
                self._counts[event] += 1
                for name in sums:
                    self._counts[name] += facts[name]
            self._write_now_and_then()

    def close(self) -> None:
        """Write pending events. The log stays usable, and can be closed again."""
        with self._lock:
            self._summarise(every=0.0)
            if self._written < len(self._data):
                self._write()

    def __enter__(self) -> Self:
        """Return the log; it is closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the log."""
        self.close()

    def _append(self, event: str, facts: Mapping[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._data += (json.dumps({"time": now, "event": event, **facts}, default=str) + "\n").encode()

    def _summarise(self, every: float) -> None:
        """Write a summary line, once `every` seconds have passed since the last one."""
        if self._counts and (seconds := self._clock() - self._counting_since) >= every:
            self._append("summary", {"seconds": round(seconds, 3), **self._counts})
            self._counts.clear()

    def _write_now_and_then(self) -> None:
        if self._written < len(self._data) and self._clock() >= self._next_write:
            self._write()

    def _write(self) -> None:
        begin = self._clock()
        try:
            self._store.put(self._name, bytes(self._data))
            self._written = len(self._data)
        except (PromptmillError, OSError) as error:
            _log.warning("the event log %s could not be written: %s", self._name, error)
        # The longer a write takes, the rarer it is, so that writing takes less than a tenth of the time.
        end = self._clock()
        self._next_write = end + max(1.0, 10 * (end - begin), len(self._data) / BYTES_A_SECOND)
