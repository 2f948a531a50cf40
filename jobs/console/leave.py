"""Ends the process with an exit code, even if a library does not return from an abandoned call."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import NoReturn

from jobs.console.streams import write

GIVEN_UP = ("close", "write", "read", "engine", "release", "link")
"""Prefixes of the names of threads that may still wait: for a store or a cluster that is gone, or for the linker."""


def leave(code: int) -> NoReturn:
    """End the process. The interpreter's normal exit would wait for such threads, or crash them."""
    logging.shutdown()
    write("")  # which flushes, and may find that nobody reads any more
    sys.stderr.flush()
    if any(thread.name.startswith(GIVEN_UP) for thread in threading.enumerate()):
        os._exit(code)
    sys.exit(code)
