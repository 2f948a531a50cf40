"""SIGINT and SIGTERM as an exception in the main thread, which nothing on the way up can take for its own failure."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from pipeline.errors import Interrupted


class Stopped(KeyboardInterrupt):
    """A signal on its way up. No `Exception`, which a library might take for a failure of its own and go on."""

    def __init__(self, signum: int) -> None:
        """Remember the signal."""
        super().__init__(signum)
        self._signum = signum

    def told(self) -> Interrupted:
        """The error for the person who runs the job."""
        return Interrupted(f"stopped by {signal.Signals(self._signum).name}", self._signum)


@contextlib.contextmanager
def signals_raise() -> Iterator[Callable[[], None]]:
    """Turn the first SIGINT or SIGTERM into `Interrupted`, wherever the main thread is; a second one ends at once.

    Yields:
        What raises again if there was one: one that comes within a destructor or a callback from C is lost.
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
