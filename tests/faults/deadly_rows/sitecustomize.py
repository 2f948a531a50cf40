"""Makes rows deadly: a prompt with CRASH ends the process that works on it, one with HANG hangs it.

It works with this folder on PYTHONPATH: every Python process imports this file at its start, and it changes the worker when,
and only if, that is imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from types import ModuleType
from typing import Any

NAME = "pipeline.worker"


class _Loader(importlib.abc.Loader):
    def __init__(self, real: Any) -> None:
        self._real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        begin = module.Worker._begin  # type: ignore[attr-defined]

        def deadly(self: Any, opened: Any) -> None:
            for row in opened.rows:
                if "CRASH" in (row.prompt or ""):
                    os.kill(os.getpid(), signal.SIGKILL)
                while "HANG" in (row.prompt or ""):
                    time.sleep(1)
            begin(self, opened)

        module.Worker._begin = deadly  # type: ignore[attr-defined]


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != NAME:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None:
            spec.loader = _Loader(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
