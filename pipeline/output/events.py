"""What happened when: one JSON line an event, in one file a driver that is replaced as it grows, within bounds.

Events that come with every shard are kept one by one until the file is large, and counted after that.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from pipeline.errors import PromptmillError
from pipeline.store.base import Store, checked_name

DETAIL_BYTES = 16_000_000
"""Size up to which frequent events are kept one by one: about 40,000 shards."""
SUMMARY_SECONDS = 60.0
"""Seconds in which frequent events are counted together."""
BYTES_A_SECOND = 200_000
"""The whole file is written anew each time, so a large one is written rarely: on average, no more than this is sent."""

_log = logging.getLogger(__name__)


class EventLog:
    """A driver's events. Safe for threads; a log that cannot be written is no reason to stop a job."""

    def __init__(self, store: Store, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin an empty log.

        Args:
            store: Where the file is.
            name: The file's stored name.
            clock: Seconds that only grow; it spaces the writes.

        Raises:
            ValueError: If the name cannot be a stored file's.
        """
        self._store, self._name, self._clock = store, checked_name(name), clock
        self._data = bytearray()
        self._written = 0
        self._counts: Counter[str] = Counter()
        self._counting_since = 0.0
        self._next_write = float("-inf")
        self._lock = threading.Lock()

    def add(self, event: str, **facts: Any) -> None:
        """Add a line with the time, the event and its facts; values that JSON does not know become their text."""
        with self._lock:
            self._summarise(every=SUMMARY_SECONDS)
            self._append(event, facts)
            self._write_now_and_then()

    def add_frequent(self, event: str, *, sums: Sequence[str] = (), **facts: Any) -> None:
        """Add an event that comes with every shard: a line, or in a large file one more in the next `summary`.

        Args:
            event: Its name, under which a summary has how often it came.
            sums: The facts, whole numbers, that a summary has the sums of.
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
        """Write what is not written yet. The log can be used on and closed again."""
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
        """Turn what was counted for so many seconds into a line."""
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
        # The longer it takes, the rarer, so that it stays below a tenth of the time.
        end = self._clock()
        self._next_write = end + max(1.0, 10 * (end - begin), len(self._data) / BYTES_A_SECOND)
