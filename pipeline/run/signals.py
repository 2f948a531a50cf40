"""Raises SIGINT and SIGTERM as an exception in the main thread, which no library mistakes for a failure of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from pipeline.errors import Interrupted


class Stopped(KeyboardInterrupt):
    """A signal, as an exception. It is not an `Exception`, which a library might catch as a failure of its own."""

    def __init__(self, signum: int) -> None:
        """Remember the signal."""
        super().__init__(signum)
        self._signum = signum

    def told(self) -> Interrupted:
        """Return the error for the person who runs the job."""
        return Interrupted(f"stopped by {signal.Signals(self._signum).name}", self._signum)


@contextlib.contextmanager
def signals_raise() -> Iterator[Callable[[], None]]:
    """Turn the first SIGINT or SIGTERM into `Interrupted`, wherever the main thread is; a second one ends the process at once.

    Yields:
        A function that raises again if there was a signal: an exception within a destructor or a C callback is lost.
    """
    seen: list[int] = []

    def check() -> None:
        if seen:
            raise Stopped(seen[0])

    if threading.current_thread() is not threading.main_thread():
        yield check
        return

    def stop(signum: int, _: FrameType | None) -> None:
        if seen:
            if os.isatty(2):
                os.write(2, b"\x1b[?25h\n")  # the live display has hidden the cursor
            os._exit(128 + signum)
        seen.append(signum)
        check()

    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    except Stopped as stopped:
        raise stopped.told() from None
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
