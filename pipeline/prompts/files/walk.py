"""Goes through folders: what is in them, each folder once however many links lead to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pyarrow import fs


class Kind(Enum):
    """What a folder's entry is. `DANGLING` is a link to nothing; `OTHER` a pipe, socket or device."""

    FILE = "file"
    FOLDER = "folder"
    DANGLING = "dangling"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder; bytes of a local name that are not UTF-8 are surrogates in `path`, as Python has them."""

    path: str
    kind: Kind

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


def entry(filesystem: fs.FileSystem, path: str) -> Entry | None:
    """Return the entry at a path; None if there is nothing."""
    if isinstance(filesystem, fs.LocalFileSystem):
        return _local_entry(Path(path)) if os.path.lexists(path) else None
    info = filesystem.get_file_info(path)
    return Entry(info.path, _KINDS[info.type]) if info.type in _KINDS else None


def entries(filesystem: fs.FileSystem, folder: str, *, recursive: bool = False) -> Iterator[Entry]:
    """Yield what is in a folder and not hidden, relative to it; nothing if there is no such folder.

    The content of a local folder to which several links lead is given once: under its own path if that is below `folder`,
    else under the first link. A link to a folder that contains it is skipped.

    Raises:
        PermissionError: If a folder may not be listed.
    """
    if isinstance(filesystem, fs.LocalFileSystem):
        yield from _local(Path(folder), recursive=recursive)
        return
    for info in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=recursive)):
        below = info.path.removeprefix(folder.rstrip("/") + "/")
        if info.type in _KINDS and not any(is_hidden(part) for part in below.split("/")):
            yield Entry(info.path, _KINDS[info.type])


_KINDS = {fs.FileType.File: Kind.FILE, fs.FileType.Directory: Kind.FOLDER}


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no part of a source; `_key=value` is a partition."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _local(root: Path, *, recursive: bool) -> Iterator[Entry]:
    if not root.is_dir():
        return
    real = root.resolve()
    seen = {_identity(folder) for folder in (real, *real.parents)}
    folders, links = [root], list[Path]()
    while folders or links:
        if folders:
            folder = folders.pop()
        else:
            folder = links.pop(0)
            if _identity(folder) in seen:
                continue
            seen.add(_identity(folder))
            yield Entry(str(folder), Kind.FOLDER)
        for path in sorted(folder.iterdir()):
            if is_hidden(path.name):
                continue
            found = _local_entry(path)
            if found.kind is not Kind.FOLDER or not recursive:
                yield found
            elif path.is_symlink():
                links.append(path)
            elif _identity(path) not in seen:  # another mount of a folder above
                seen.add(_identity(path))
                folders.append(path)
                yield found


def _local_entry(path: Path) -> Entry:
    kind = Kind.OTHER
    if path.is_file():
        kind = Kind.FILE
    elif path.is_dir():
        kind = Kind.FOLDER
    elif path.is_symlink() and not path.exists():
        kind = Kind.DANGLING
    return Entry(str(path), kind)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
