"""Says what is being done while it takes long, so that nothing is silent: after a second and a half, then less and less often.

It imports the standard library only.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator

FIRST_SECONDS = 1.5
"""Seconds after which a stage is told of; a shorter one is not worth a line."""
PACE = ((120.0, 5.0), (3600.0, 60.0), (float("inf"), 300.0))
"""Until how many seconds after the start there is a line every so many seconds."""


def interval(elapsed: float) -> float:
    """Seconds between two lines, `elapsed` seconds after the start."""
    return next(every for until, every in PACE if elapsed < until)


def moments() -> Iterator[float]:
    """Seconds since the start at which a stage that lasts is told of."""
    now = FIRST_SECONDS
    yield now
    while True:
        now = (now // interval(now) + 1) * interval(now)
        yield now


def on_stderr(text: str) -> None:
    """Write a line of a log: time, level, text."""
    print(time.strftime("%H:%M:%S"), "INFO", text, file=sys.stderr, flush=True)


class Stage:
    """Something that may take long, from here to `end`; also a context manager.

    Args:
        text: What is being done.
        say: Shows a line.
        wait: Waits so many seconds at most for the end, and returns whether it has come; its own unless given.
    """

    def __init__(
        self, text: str, say: Callable[[str], None] = on_stderr, wait: Callable[[float], bool] | None = None
    ) -> None:
        """Begin."""
        self._text, self._say = text, say
        self._over = threading.Event()
        self._wait = wait if wait is not None else self._over.wait
        self._thread = threading.Thread(target=self._run, name="stage", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Say no more."""
        self._over.set()
        self._thread.join()

    def __enter__(self) -> Stage:
        """Nothing more to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.end()

    def _run(self) -> None:
        before = 0.0
        for moment in moments():
            if self._wait(moment - before):
                return
            before = moment
            minutes, seconds = divmod(int(moment), 60)
            self._say(self._text if moment == FIRST_SECONDS else f"{self._text}, {minutes}:{seconds:02} so far")
