"""Checks grammars in a child process: one that takes minutes or all memory to compile costs a few seconds and one row."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import subprocess
import sys
import threading

from pipeline.engine.rules.structured import require_library
from pipeline.types import SamplingParams

CPU_SECONDS = 10
"""CPU seconds that a grammar may take to compile."""
_WAIT_SECONDS = 60
"""Seconds that an answer may take on a busy machine."""


def check_in_time(sampling: SamplingParams) -> None:
    """Check a regex, a choice or a JSON Schema as `check_grammar` does, within a limit of time and memory.

    Raises:
        ValueError: If it cannot be followed, or takes too long; the message names the field and the reason, in one line.
        ConfigurationError: If the library is not installed.
    """
    name = sampling.structured
    if name is not None:
        require_library(name)
        told = _guard().ask(name, json.dumps(sampling.plain()))
        if told is not None:
            raise ValueError(told)


@functools.cache
def _guard() -> _Guard:
    guard = _Guard()
    atexit.register(guard.end)
    return guard


class _Guard:
    """The child process that compiles; it is started when first needed, and again after a grammar ended it."""

    def __init__(self) -> None:
        """Start nothing."""
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def ask(self, name: str, sampling: str) -> str | None:
        """Return what is wrong with sampling parameters, in one line, or None."""
        with self._lock:
            child = self._started()
            assert child.stdin is not None and child.stdout is not None
            try:
                child.stdin.write(sampling.encode() + b"\n")
                child.stdin.flush()
                answers = select.poll()  # `select` does not take file descriptors above 1023
                answers.register(child.stdout, select.POLLIN)
                answer = child.stdout.readline() if answers.poll(1000 * _WAIT_SECONDS) else b""
            except BrokenPipeError:
                answer = b""
            if answer:
                told: str | None = json.loads(answer)
                return told
            self.end()
        return f"{name}: takes more than {CPU_SECONDS} s or too much memory to compile; make it simpler"

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            paths = os.pathsep.join(path for path in sys.path if path)
            self._child = subprocess.Popen(
                [sys.executable, "-m", "pipeline.engine.rules.grammar_child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": paths},
            )  # fmt: skip
        return self._child

    def end(self) -> None:
        """End the process; the next question starts another."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(BrokenPipeError):  # from data not sent yet
                    if pipe is not None:
                        pipe.close()
            child.wait()
