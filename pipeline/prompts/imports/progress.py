"""Logs every few seconds how far an import is; one that is done sooner logs nothing.

A separate thread says it, as a slow disk may hold up the one that reads.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType

from pipeline.wording import counted

BETWEEN = 3.0
"""Seconds from one line to the next."""
logger = logging.getLogger(__name__)


class Progress:
    """Prints lines of progress while its block runs.

    Attributes:
        done: Bytes read of the files before this one.
        now: Bytes read of this one.
        rows: Rows taken.
    """

    def __init__(self, total: int) -> None:
        """Start with nothing read. `total` is the number of bytes to read; 0: unknown."""
        self.done, self.now, self.rows = 0, 0, 0
        self._total = total
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._speak, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        """Begin to speak."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Be silent from here on."""
        self._ended.set()
        self._thread.join()

    def line(self, seconds: float) -> str:
        """How far it is after so many seconds."""
        read = self.done + self.now
        if not self._total:
            return f"importing: {counted(self.rows, 'row')}, {seconds:.0f} s so far"
        rate = read / 1e6 / max(seconds, 1e-9)
        return (
            f"importing: {counted(self.rows, 'row')}, {read / 1e6:,.0f} of {self._total / 1e6:,.0f} MB read "
            f"({min(1.0, read / self._total):.0%}), {rate:,.0f} MB/s"
        )

    def _speak(self) -> None:
        start = time.monotonic()
        while not self._ended.wait(BETWEEN):
            logger.info(self.line(time.monotonic() - start))
