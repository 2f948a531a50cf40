"""Stages a run: it waits at a gate until the test opens it, and some of its rows are deadly.

It works with this folder on PYTHONPATH: every Python process imports this file at its start, and it changes a module when,
and only if, that is imported. What the processes have to tell, and the test tells them, is in files of the folder that
`PROMPTMILL_TEST_STAGE` names:

- `at-gate-PID`: this process has committed as many parts as `PROMPTMILL_TEST_PARTS` says, and takes no further step of its
  engine. It goes on when there is a file `open`.
- `hangs-PID`: this process has a prompt with HANG in flight, with which it does nothing any more. No replica is taken for hung
  that has not said so: on a busy machine, one that is only slow could be. A prompt with CRASH ends its process.
- `broken-PID`: this process has had a prompt with BROKEN, and its engine raises from then on: that of the first such process an
  exception of its own, that of the second what a lost device raises. Others work.

Events are in their file as soon as they are added, so that a test can wait for one.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

STAGE = Path(os.environ["PROMPTMILL_TEST_STAGE"])
PARTS = os.environ.get("PROMPTMILL_TEST_PARTS")


def change_worker(module: Any) -> None:
    """Have some rows be deadly, and the engine's thread wait at the gate."""
    worker = module.Worker
    begin, finish, account = worker._begin, worker._finish, worker._account
    parts = 0

    def deadly(self: Any, opened: Any) -> None:
        for row in opened.rows:
            if "CRASH" in (row.prompt or ""):
                os.kill(os.getpid(), signal.SIGKILL)
            while "HANG" in (row.prompt or ""):
                _tell("hangs")
                time.sleep(1)
            if "BROKEN" in (row.prompt or ""):
                _break(self)
        begin(self, opened)

    def counted(self: Any, opened: Any) -> None:
        nonlocal parts
        finish(self, opened)
        parts += opened.task.trial is None

    def waiting(self: Any, *step: Any) -> None:
        if PARTS is not None and parts >= int(PARTS) and not (STAGE / "open").exists():
            _tell("at-gate")
            while STAGE.is_dir() and not (STAGE / "open").exists():
                time.sleep(0.05)
        account(self, *step)

    worker._begin, worker._finish, worker._account = deadly, counted, waiting


def change_dispatch(module: Any) -> None:
    """Have the time after which a replica counts as hung be endless until it has said that it hangs."""
    watch = module.Dispatcher._watch

    def fair(self: Any) -> None:
        configured = self.hang_timeout
        processes = [getattr(replica, "facts", {}).get("pid", os.getpid()) for replica in self.replicas]
        if not any((STAGE / f"hangs-{process}").exists() for process in processes):
            self.hang_timeout = float("inf")
        try:
            watch(self)
        finally:
            self.hang_timeout = configured

    module.Dispatcher._watch = fair


def change_events(module: Any) -> None:
    """Have each event written by itself."""
    module.EventLog._write_now_and_then = module.EventLog._write


CHANGES: dict[str, Callable[[Any], None]] = {
    "pipeline.work.worker": change_worker,
    "pipeline.run.dispatch.dispatch": change_dispatch,
    "pipeline.output.record.events": change_events,
}


def _break(worker: Any) -> None:
    """Have the engine of one of the first two processes that come here raise from now on."""
    others = len(list(STAGE.glob("broken-*")))
    if others >= 2:
        return
    _tell("broken")
    text = ("an exception", "CUDA error: an illegal memory access was encountered")[others]

    def step() -> Any:
        raise RuntimeError(text)

    guard = worker._engine
    guard._now().step = step
    renew = guard._renew

    def renewed() -> Any:
        made = renew()
        made.step = step
        return made

    guard._renew = renewed


def _tell(what: str) -> None:
    file = STAGE / f"{what}-{os.getpid()}"
    if STAGE.is_dir() and not file.exists():
        file.touch()


class _Loader(importlib.abc.Loader):
    def __init__(self, real: Any) -> None:
        self._real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        CHANGES[module.__name__](module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name not in CHANGES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None:
            spec.loader = _Loader(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
