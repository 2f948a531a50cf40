"""What happened when: one JSON line an event, in one file a driver that is replaced as it grows.

It does not know what the events mean.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from pipeline.errors import PromptmillError
from pipeline.store.base import Store, checked_name

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
        self._lines: list[bytes] = []
        self._written = 0
        self._next_write = float("-inf")
        self._lock = threading.Lock()

    def add(self, event: str, **facts: Any) -> None:
        """Add a line with the time, the event and its facts; values that JSON does not know become their text."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps({"time": now, "event": event, **facts}, default=str) + "\n"
        with self._lock:
            self._lines.append(line.encode())
            if self._clock() >= self._next_write:
                self._write()

    def close(self) -> None:
        """Write what is not written yet. The log can be used on and closed again."""
        with self._lock:
            if self._written < len(self._lines):
                self._write()

    def __enter__(self) -> Self:
        """Return the log; it is closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the log."""
        self.close()

    def _write(self) -> None:
        begin = self._clock()
        try:
            self._store.put(self._name, b"".join(self._lines))
            self._written = len(self._lines)
        except (PromptmillError, OSError) as error:
            _log.warning("the event log %s could not be written: %s", self._name, error)
        # The whole file is written anew: the longer that takes, the rarer, so that it stays below a tenth of the time.
        end = self._clock()
        self._next_write = end + max(1.0, 10 * (end - begin))
