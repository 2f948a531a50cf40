"""Logs the progress of loading every two seconds; shorter work is not logged.

A separate thread does it, because a slow disk may block the loading thread anywhere.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

_BETWEEN = 2.0
"""Seconds from one line to the next."""
logger = logging.getLogger(__name__)


class LoadingLog:
    """Speaks while its block runs.

    Args:
        doing: What is done in the block.
        total: Layers that will be counted; 0: nothing is counted, and the time tells.
    """

    def __init__(self, doing: str, total: int = 0) -> None:
        """Say nothing yet."""
        self._doing, self._total, self._done = doing, total, 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._speak, name="loading log", daemon=True)

    def packed(self) -> None:
        """Count a layer."""
        self._done += 1

    def __enter__(self) -> LoadingLog:
        """Begin to speak."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Be silent from here on."""
        self._ended.set()
        self._thread.join()

    def _speak(self) -> None:
        start = time.monotonic()
        while not self._ended.wait(_BETWEEN):
            far = f"{self._done} of {self._total} layers, " if self._total else ""
            logger.info("loading: %s, %s%.0f s so far", self._doing, far, time.monotonic() - start)
