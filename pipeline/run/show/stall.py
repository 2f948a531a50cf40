"""Says what a run waits for when nothing has happened for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

from pipeline.wording import duration

PATIENCE = (30.0, 60.0, 120.0, 300.0)
"""Seconds without progress after which the run says what it waits for."""
AGAIN = 600.0
"""Seconds between further lines."""


class Stall:
    """Detects that a run makes no progress.

    Args:
        clock: The time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without knowing any progress."""
        self._clock = clock
        self._seen: Hashable = None
        self._since = clock()
        self._told = 0

    def look(self, progress: Hashable, waiting_for: Callable[[], str]) -> str | None:
        """Return a line if it is time for one.

        Args:
            progress: Anything that is different after progress.
            waiting_for: Returns what the run waits for.
        """
        now = self._clock()
        if progress != self._seen:
            self._seen, self._since, self._told = progress, now, 0
            return None
        silent = now - self._since
        if silent < self._next():
            return None
        while silent >= self._next():  # a line for all moments that have passed, should the display have been busy
            self._told += 1
        return f"no progress for {duration(silent)}: waiting for {waiting_for()}"

    def _next(self) -> float:
        late = self._told - len(PATIENCE)
        return PATIENCE[self._told] if late < 0 else PATIENCE[-1] + AGAIN * (late + 1)
