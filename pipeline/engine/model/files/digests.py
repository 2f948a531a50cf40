"""SHA-256 of a model's files, remembered for files that have not changed.

Several jobs in a row use one model, and hashing gpt2-large takes seconds. A digest is remembered by the file's path, size,
times, inode and device. Where the times cannot tell a change, because the file was written just now, nothing is remembered.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.stages import doing
from pipeline.user_cache import cache_file, read_cache, replace_cache

_FILE = "digests.json"
_MOST = 2000
"""Digests that are kept; the oldest go."""
_LARGE = 1 << 20
"""Bytes from which on a digest is worth remembering."""
_SETTLED_NS = 10_000_000_000
"""Age in nanoseconds from which on another change gives another time, on file systems with coarse times, too."""
_CHUNK = 1 << 22
_SHA256 = re.compile(r"[0-9a-f]{64}")
logger = logging.getLogger(__name__)


def digests(files: Sequence[Path], *, fresh: bool = False) -> list[str]:
    """Return the SHA-256 of each file, in hexadecimal.

    Args:
        files: Paths.
        fresh: Read every file, also one whose digest is remembered.

    Raises:
        OSError: If a file cannot be read.
    """
    place = None if fresh else cache_file(_FILE)
    known = {} if place is None else read_cache(place)
    settled = time.time_ns() - _SETTLED_NS  # a file that changes from here on gets other times than one older than that
    facts = [path.stat() for path in files]
    keys = [_key(path, fact) for path, fact in zip(files, facts, strict=True)]
    found = [_named(path) or _known(known.get(key)) for path, key in zip(files, keys, strict=True)]
    unknown = [at for at, digest in enumerate(found) if digest is None]
    count = _Count(sum(facts[at].st_size for at in unknown))
    with doing("hashing the model's files", count.told), ThreadPoolExecutor() as pool:
        for at, digest in zip(unknown, pool.map(count.sha256, [files[at] for at in unknown]), strict=True):
            found[at] = digest
    if place is not None:
        lasting = [at for at in unknown if facts[at].st_size >= _LARGE and _last(facts[at]) < settled]
        _remember(place, {keys[at]: found[at] for at in lasting if _key(files[at], files[at].stat()) == keys[at]})
    return [digest for digest in found if digest is not None]


class _Count:
    """Hashes files, and counts the bytes."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._lock = total, 0, threading.Lock()

    def told(self) -> str:
        """Say how far it is."""
        return f"{self._done / 1e9:.1f} of {self._total / 1e9:.1f} GB"

    def sha256(self, path: Path) -> str:
        """Hash a file."""
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            room = memoryview(bytearray(_CHUNK))
            while read := file.readinto(room):
                digest.update(room[:read])
                with self._lock:
                    self._done += read
        return digest.hexdigest()


def _named(path: Path) -> str | None:
    """Return the digest that the hub's cache gives a large file as its name."""
    target = path.resolve()
    is_blob = path.is_symlink() and target.parent.name == "blobs" and _SHA256.fullmatch(target.name)
    return target.name if is_blob else None


def _last(facts: os.stat_result) -> int:
    return max(facts.st_mtime_ns, facts.st_ctime_ns)


def _key(path: Path, facts: os.stat_result) -> str:
    place = [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, facts.st_dev]
    return "\0".join([str(path.resolve()), *map(str, place)])


def _known(digest: object) -> str | None:
    return digest if isinstance(digest, str) and _SHA256.fullmatch(digest) else None


def _remember(place: Path, new: dict[str, str | None]) -> None:
    """Add digests to the file; where that fails, the next job hashes again."""
    if not new:
        return
    paths = {key.partition("\0")[0] for key in new}  # older entries of the same files are of no use any more
    kept = {key: digest for key, digest in read_cache(place).items() if key.partition("\0")[0] not in paths}
    merged = kept | new
    try:
        replace_cache(place, dict(itertools.islice(merged.items(), max(0, len(merged) - _MOST), None)))
    except OSError as error:
        logger.debug("%s cannot be written, so the next job hashes the model again: %s", place, error)
