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
from pipeline.engine.kept import about_processor, cache_folder, caps, digest_of_code, put_kept, read_kept

_FILE = "verdicts.json"
_MOST = 2000
"""Verdicts that are kept; the oldest go."""
_MOST_BYTES = 1 << 20
"""A file that is larger is not ours: so many verdicts take a quarter of it."""
_LONGEST = 200
"""Characters of a question that is kept."""
logger = logging.getLogger(__name__)


class Verdicts:
    """Answers to yes-or-no questions about this machine; new ones reach the file with `keep`.

    Args:
        file: Where they are kept; None: nowhere.
        machine: What the answers follow from, beside the question.
    """

    def __init__(self, file: Path | None, machine: str) -> None:
        """Read what is there."""
        self._file, self._machine = file, machine
        self._known = {} if file is None else _read(file)
        self._new: dict[str, bool] = {}

    def answer(self, question: str, check: Callable[[], bool | None]) -> bool:
        """The answer to a question: the known one, or what `check` finds; None counts as no, and is not remembered."""
        key = f"{self._machine} {question}"
        found = self._new.get(key, self._known.get(key))
        if found is None:
            found = check()
            if found is not None:
                self._new[key] = found
        return bool(found)

    def keep(self) -> None:
        """Write new answers to the file, beside what others have written since. Where that fails, they are asked again."""
        if self._file is None or not self._new:
            return
        # Two replicas may do this at once: what the slower one writes lacks the other's new answers. They are the same anyway.
        merged = {key: answer for key, answer in _read(self._file).items() if key not in self._new} | self._new
        try:
            put_kept(self._file, json.dumps(dict(list(merged.items())[-_MOST:]), indent=0))
        except OSError as error:
            logger.debug("%s is not written, and the checks will be run again: %s", self._file, error)


def here() -> Verdicts:
    """The verdicts of this machine, as torch and the kernels are set up now."""
    file = cache_file()
    try:
        return Verdicts(file, "" if file is None else machine())
    except OSError as error:
        logger.debug("what the checks depend on cannot be read, and nothing is remembered: %s", error)
        return Verdicts(None, "")


def cache_file() -> Path | None:
    """Where verdicts are kept; None: nowhere."""
    folder = cache_folder()
    return None if folder is None else folder / _FILE


def machine() -> str:
    """A digest of all that a check's answer follows from, beside its question."""
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
    """A digest of the compiled kernels in use: another compiler makes others of the same sources."""
    library = native.library()
    name = getattr(library, "_name", None)
    return hashlib.sha256(Path(name).read_bytes()).hexdigest() if isinstance(name, str) else ""


def _read(file: Path) -> dict[str, bool]:
    """Return what a file has; nothing where it cannot be had, is none of ours, or others may write it."""
    found = read_kept(file, _MOST_BYTES)
    return {key: answer for key, answer in found.items() if isinstance(answer, bool) and len(key) <= _LONGEST}
