"""Runs a check that may hang or crash in a separate process, whose last line of output is its answer, as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pipeline
from pipeline.wording import lines_of, one_line


class Failed(Exception):
    """A check's process gave no answer; the message says why, in a phrase."""


class Children:
    """The processes of a doctor's checks, which can be ended together."""

    def __init__(self) -> None:
        """Start with none."""
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._ended = False

    def ask(self, module: str, seconds: float) -> Any:
        """Run a module, and return its answer.

        Args:
            module: Its name; it prints JSON as its last line.
            seconds: How long it may take; then it is killed, and what it has started with it.

        Raises:
            Failed: If it gives no answer.
        """
        process = self._start([sys.executable, "-P", "-m", module])  # -P: not what the current folder has of that name
        try:
            told, complaint = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"gave no answer within {seconds:.0f} s") from None
        finally:
            self._end(process)
        if process.returncode:
            raise Failed(_why(process.returncode, complaint))
        try:
            return json.loads(lines_of(told)[-1])
        except (ValueError, IndexError):
            raise Failed(f"answered {one_line(told, 80) or 'nothing'}") from None

    def end(self) -> None:
        """Kill all that run, and start no more."""
        with self._lock:
            self._ended = True
            running = list(self._running)
        for process in running:
            _kill(process)

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        with self._lock:
            if self._ended:
                raise Failed("was not started")
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                encoding="utf-8", errors="replace", start_new_session=True, env={**os.environ, "PYTHONPATH": _search_path()},
            )  # fmt: skip
            self._running.add(process)
        return process

    def _end(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._running.discard(process)
        _kill(process)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        process.wait()


def _search_path() -> str:
    """Return where modules are looked for: this code first, installed or not."""
    own = str(Path(pipeline.__file__).parents[1])
    return os.pathsep.join([own, *filter(None, [os.environ.get("PYTHONPATH")])])


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process with its session; one that has ended may have left others there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _why(code: int, complaint: str) -> str:
    if code < 0:
        known = {number.value: number.name for number in signal.Signals}
        return f"its process was ended by {known.get(-code, f'signal {-code}')}"
    return one_line((lines_of(complaint) or [f"its process ended with {code}"])[-1], 300)
