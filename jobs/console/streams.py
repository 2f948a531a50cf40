"""Standard output and standard error of a command, whoever reads them and whatever their encoding is."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class _Log(io.FileIO):
    """A file descriptor for a log: a line that cannot be written is lost, and no error."""

    def write(self, data: Any) -> int:
        """Write, or act as if all had been written."""
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes


def prepare() -> None:
    """Prepare both streams. Doing it twice does no harm.

    A character that stdout's encoding lacks is written as an escape. What is told on stderr is a log: a job goes on without it
    when its reader is gone or its disk is full.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    told = sys.stderr
    if told is sys.__stderr__ and isinstance(told, io.TextIOWrapper):
        log = _Log(told.fileno(), "w", closefd=False)
        sys.stderr = io.TextIOWrapper(log, told.encoding, "backslashreplace", write_through=True)


def write(text: str) -> bool:
    """Write to stdout at once; return whether anybody reads it: `head` closes the pipe when it has seen enough."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        # the interpreter flushes once more at its end, and must not find the closed pipe again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True
