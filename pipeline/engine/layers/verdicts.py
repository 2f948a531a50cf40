"""Caches the results of the checks at loading, in a small file in the user's cache folder.

The result of a check depends only on the machine and the installation, so it need not be repeated. The file only saves time:
if it is missing, or cannot be read or written, the checks run, and that is no error.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.engine import native
from pipeline.engine.setting import about_processor, caps, digest_of_code
from pipeline.user_cache import cache_file, read_cache, replace_cache

_FILE = "verdicts.json"
_MOST = 2000
"""Verdicts that are kept; the oldest go."""
_LONGEST = 200
"""Characters of a question that is kept."""
logger = logging.getLogger(__name__)


class Verdicts:
    """Answers to yes-or-no questions about this machine; new ones reach the file with `keep`.

    Args:
        file: The cache file; None: no cache.
        machine: A digest of the machine; see `machine`.
    """

    def __init__(self, file: Path | None, machine: str) -> None:
        """Read what is there."""
        self._file, self._machine = file, machine
        self._known = {} if file is None else _read(file)
        self._new: dict[str, bool] = {}

    def answer(self, question: str, check: Callable[[], bool | None]) -> bool:
        """Return the answer to a question: the cached one, or that of `check`. None counts as no, and is not cached."""
        key = f"{self._machine} {question}"
        found = self._new.get(key, self._known.get(key))
        if found is None:
            found = check()
            if found is not None:
                self._new[key] = found
        return bool(found)

    def keep(self) -> None:
        """Add new answers to the file. If that fails, the checks run again next time."""
        if self._file is None or not self._new:
            return
        # Two replicas may do this at once: what the slower one writes lacks the other's new answers. They are the same anyway.
        merged = {key: answer for key, answer in _read(self._file).items() if key not in self._new} | self._new
        try:
            replace_cache(self._file, dict(list(merged.items())[-_MOST:]))
        except OSError as error:
            logger.debug("%s cannot be written, so the checks will run again: %s", self._file, error)


def here() -> Verdicts:
    """Return the verdicts of this machine, with the current settings of torch and the kernels."""
    file = cache_file(_FILE)
    try:
        return Verdicts(file, "" if file is None else machine())
    except OSError as error:
        logger.debug("what the checks depend on cannot be read, so their results are not cached: %s", error)
        return Verdicts(None, "")


def machine() -> str:
    """Return a digest of everything besides the question that decides a check's answer."""
    return hashlib.sha256(json.dumps(_facts(), sort_keys=True).encode()).hexdigest()[:20]


def _facts() -> dict[str, object]:
    return {
        "processor": about_processor(), "torch": [torch.__version__, torch.version.git_version],
        "capability": torch.backends.cpu.get_cpu_capability(), "caps": caps(),
        "threads": torch.get_num_threads(),
        "kernels": [native.level(), native.digest_of_sources(), _built()],
        "code": digest_of_code(),
    }  # fmt: skip


def _built() -> str:
    """Return a digest of the compiled kernels in use: another compiler builds others from the same sources."""
    library = native.library()
    name = getattr(library, "_name", None)
    return hashlib.sha256(Path(name).read_bytes()).hexdigest() if isinstance(name, str) else ""


def _read(file: Path) -> dict[str, bool]:
    """Return the verdicts in a file."""
    return {key: told for key, told in read_cache(file).items() if isinstance(told, bool) and len(key) <= _LONGEST}
