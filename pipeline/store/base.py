"""Defines the interface of a store of whole files, and opens the store at a path."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO, Protocol, cast
from urllib.parse import unquote

from pipeline.errors import PlanRefused

# Scheme → "module:class", imported on first use: an unused store costs no import.
STORES = {
    "file": "pipeline.store.local:LocalStore",
    **dict.fromkeys(("s3", "gs", "az", "abfs", "abfss"), "pipeline.store.objects:ObjectStore"),
}

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a listing: its name, its size in bytes, and its modification time by the store's clock, seconds since 1970."""

    name: str
    size: int
    last_modified: float


class Kind(StrEnum):
    """The kind of a folder's entry."""

    FILE = "file"
    FOLDER = "folder"
    OTHER = "link to a folder or to nowhere, or a device"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry directly in a folder: its full stored name, and its kind."""

    name: str
    kind: Kind


class Store(Protocol):
    """Whole files under relative names such as `data/part.parquet`.

    Every method raises `ValueError` for a name that is absolute, empty, or has an empty, `.` or `..` segment,
    `PlanRefused` when the store cannot be used as asked (permissions, a file where a folder should be), and the
    writing ones `StorageFull` when no space is left; then nothing half-written stays.
    """

    def probe(self) -> None:
        """Raise `PlanRefused` for a store where a second `put_if_absent` replaces the file of the first."""
        ...

    def put_if_absent(self, name: str, data: bytes | memoryview) -> bool:
        """Make the file durably, unless one of that name exists; return whether it was made."""
        ...

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Make or replace the file: a reader sees the old content or the new, never a mixture."""
        ...

    def get(self, name: str) -> bytes:
        """Return the whole content; `FileNotFoundError` when there is no such file."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Return a seekable file for reading; `FileNotFoundError` when there is no such file."""
        ...

    def size(self, name: str) -> int:
        """Return the number of bytes; `FileNotFoundError` when there is no such file."""
        ...

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """Yield the files whose names begin with `prefix` (`data/`: those of a folder), sorted by name."""
        ...

    def entries(self, folder: str = "") -> Iterator[Entry]:
        """Yield what is directly in a folder (`data/`; the whole store unless given), in any order; nothing is left out."""
        ...

    def move(self, name: str, target: str) -> None:
        """Rename a file, or whatever has its name, to a free name; `FileNotFoundError` when there is none."""
        ...

    def delete(self, name: str) -> None:
        """Remove the file, if it exists."""
        ...

    def sweep(self, older_than_seconds: float) -> int:
        """Remove temporary files of killed writers that are older than that, and return how many; never a final file."""
        ...


def checked_name(name: str) -> str:
    """Return `name` if it can name a stored file.

    Raises:
        ValueError: If it is absolute, or has an empty, `.` or `..` segment, a backslash or a control character.
    """
    segments = name.split("/")
    if any(s in ("", ".", "..") for s in segments) or re.search(r"[\x00-\x1f\\]", name):
        raise ValueError(f"{name!r}: must be a relative name such as data/part.parquet")
    return name


def open_store(path: str, *, allow_unsafe: bool = False, key: str = "output.path") -> Store:
    """Return the store at a directory or URI. Nothing is created before the first write.

    Args:
        path: A directory, or `file://`, `s3://`, `gs://` or `az://` and where in it.
        allow_unsafe: Take an object store without put-if-absent, too.
        key: The option that names it, for messages.

    Raises:
        PlanRefused: If no store serves this kind of path.
    """
    match = _URI.fullmatch(path)
    scheme, rest = (match[1].lower(), match[2]) if match else ("file", path)
    local = scheme == "file"
    if match and local:
        rest = unquote(rest.removeprefix("localhost"))
    # `file://host/…` would be another machine's disk, and a relative path has no meaning in a URI.
    usable = rest.strip() and "\0" not in rest and (not match or not local or rest.startswith("/"))
    if scheme not in STORES or not usable:
        raise PlanRefused(f"{key}={path!r}: must be a directory, or a URI that begins with {_schemes()}")
    module, _, name = STORES[scheme].partition(":")
    make = cast(Callable[..., Store], getattr(importlib.import_module(module), name))
    if not local:
        return make(f"{scheme}://{rest}", allow_unsafe=allow_unsafe)
    try:
        return make(rest)
    except RuntimeError as error:  # of `expanduser`
        raise PlanRefused(f"{key}={path!r}: there is no such user, or no home folder") from error


def _schemes() -> str:
    return ", ".join(f"{scheme}://" for scheme in STORES)
