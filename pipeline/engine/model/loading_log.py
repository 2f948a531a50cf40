"""Says how far loading is: nothing for a small model, a line every few seconds for a large one.

It does not know what is loaded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_FIRST = 2.0
"""Seconds after which the first line is due."""
_BETWEEN = 5.0
"""Seconds from one line to the next."""
logger = logging.getLogger(__name__)


class LoadingLog:
    """Counts layers as they are packed.

    Args:
        total: Layers that there are.
        clock: Seconds from any start.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Start counting."""
        self._total, self._clock = total, clock
        self._done = 0
        self._due = clock() + _FIRST

    def packed(self) -> None:
        """Count a layer; say so when it is time."""
        self._done += 1
        now = self._clock()
        if now >= self._due:
            logger.info("loading: %d of %d layers packed", self._done, self._total)
            self._due = now + _BETWEEN
