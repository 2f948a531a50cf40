"""Ends the process with an exit code, also where a library does not come back from a call that was given up."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import NoReturn

GIVEN_UP = ("close", "write", "read", "engine", "release")
"""What the threads' names begin with that may still wait, for a storage or a cluster that is gone."""


def leave(code: int) -> NoReturn:
    """End the process. The interpreter's own end would wait for such threads, or pull the ground from under them."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    if any(thread.name.startswith(GIVEN_UP) for thread in threading.enumerate()):
        os._exit(code)
    sys.exit(code)
