"""Says what this process is doing while it takes long, so that no wait is silent.

Code at any depth says what it does with `doing`. A `Stage` shows it: after one and a half seconds, then at growing
intervals, from a separate thread, because a slow disk may block the working thread anywhere.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

FIRST_SECONDS = 1.5
"""Seconds after which a stage is shown; a shorter one is not worth a line."""
MOMENT = 0.3
"""Seconds after which a run says what it is: with what comes before, that is within the first second of the process."""
PACE = ((120.0, 5.0), (3600.0, 60.0), (float("inf"), 300.0))
"""Pairs (seconds after the start, interval between lines until then)."""
_open: list[tuple[str, Callable[[], str] | None]] = []
"""What this process is doing, innermost last: like a log, the only one of its process."""


@contextlib.contextmanager
def doing(text: str, far: Callable[[], str] | None = None) -> Iterator[None]:
    """Say what the block does.

    Args:
        text: The activity, such as `reading gpt2-large`.
        far: Returns how far it is, such as `3 of 12 layers`; None: unknown.
    """
    entry = text, far
    _open.append(entry)
    try:
        yield
    finally:
        _open.remove(entry)


def now_doing() -> str:
    """Return what this process is doing, and how far it is; empty if nothing was said."""
    try:
        text, far = _open[-1]
    except IndexError:
        return ""
    return f"{text}, {far()}" if far is not None else text


def interval(elapsed: float) -> float:
    """Return the seconds between two lines, `elapsed` seconds after the start."""
    return next(every for until, every in PACE if elapsed < until)


def moments() -> Iterator[float]:
    """Yield the seconds since the start at which a lasting stage is shown."""
    now = FIRST_SECONDS
    yield now
    while True:
        now = (now // interval(now) + 1) * interval(now)
        yield now


def on_stderr(text: str) -> None:
    """Write a line of a log: time, level, text."""
    print(time.strftime("%H:%M:%S"), "INFO", text, file=sys.stderr, flush=True)


class Stage:
    """An activity that may take long, from the constructor to `end`; also a context manager.

    Args:
        text: The activity.
        say: Shows a line.
        detail: Returns what is being done now, or nothing.
        wait: Waits for the end, at most this many seconds, and returns whether it has come; for tests.
    """

    def __init__(
        self,
        text: str,
        say: Callable[[str], None] = on_stderr,
        detail: Callable[[], str] = now_doing,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        """Begin."""
        self._text, self._say, self._detail = text, say, detail
        self._over = threading.Event()
        self._wait = wait if wait is not None else self._over.wait
        self._thread = threading.Thread(target=self._run, name="stage", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the stage; nothing more is shown."""
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
            told = "" if moment == FIRST_SECONDS else f", {minutes}:{seconds:02} so far"
            detail = self._detail()
            self._say(self._text + (f": {detail}" if detail else "") + told)


class Opening:
    """The first line of a run: said after a moment, or as soon as the run is accepted.

    A run that is refused within the moment says only why. A context manager, which takes back what is not said yet.

    Args:
        text: The line.
        say: Shows a line.
        moment: Seconds to wait.
    """

    def __init__(self, text: str, say: Callable[[str], None] = on_stderr, moment: float = MOMENT) -> None:
        """Begin to wait."""
        self._text, self._say = text, say
        self._lock, self._done = threading.Lock(), False
        self._timer = threading.Timer(moment, self.accepted)
        self._timer.daemon = True
        self._timer.start()

    def accepted(self) -> None:
        """Say the line, unless it was said."""
        with self._lock:
            if not self._done:
                self._done = True
                self._say(self._text)

    def __enter__(self) -> Opening:
        """Nothing more to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Say nothing from here on."""
        with self._lock:
            self._done = True
        self._timer.cancel()
