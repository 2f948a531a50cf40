"""Finds the files that a path, directory, glob or URI stands for, and the Hive partitions in their names."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import pyarrow as pa
from pyarrow import fs

from pipeline.errors import InputRefused
from pipeline.prompts.files.foreign import conversion, is_imported
from pipeline.prompts.files.walk import Entry, Kind, entries, entry
from pipeline.wording import one_line, without_secrets

SUFFIXES = (".parquet", ".pq")
TABLES = {"_delta_log": "Delta", ".hoodie": "Hudi"}
"""A folder within a table → the table's format, in which the files hold rows of earlier versions, too."""
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_QUERY = re.compile(r"\?(?=[A-Za-z_]+=)[^/?]*$")  # a `?` that begins no `key=value` is a wildcard


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file: `name` is relative to what was searched, `path` is what its file system calls it.

    `keys` are the source's Hive partition keys; one that is missing in `partitions` is null for this file.
    """

    name: str
    path: str
    keys: tuple[str, ...]
    partitions: dict[str, str]


def filesystem_for(path: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a path or URI and the path within it, wildcards left as they are.

    The same text gives an equal file system in another process. Local paths become absolute.

    Raises:
        InputRefused: If the URI cannot be parsed, its scheme is not known, or a path begins with the home directory of nobody.
    """
    uri = _URI.fullmatch(path)
    if uri is None:
        try:
            return fs.LocalFileSystem(), str(Path(path).expanduser().absolute())
        except RuntimeError as error:  # `~name` of nobody
            raise InputRefused(f"source.path={path!r}: {error}") from error
    query = _QUERY.search(uri[2])
    query_text = query[0] if query else ""
    # Wildcards and blanks are no URI characters; `from_uri` decodes them again.
    place = quote(uri[2].removesuffix(query_text), safe="/%:@!$&'()*+,;=~")
    try:
        filesystem, inner = fs.FileSystem.from_uri(f"{uri[1]}://{place}{query_text}")
    except (pa.ArrowException, OSError, ValueError, ImportError) as error:
        raise InputRefused(f"source.path={without_secrets(path)!r}: {without_secrets(str(error))}") from error
    return filesystem, inner.rstrip("/") or "/"


def find_files(
    filesystem: fs.FileSystem,
    path: str,
    shown: str,
    suffixes: tuple[str, ...] = SUFFIXES,
    wanted: str = "Parquet files (*.parquet, *.pq)",
) -> list[FoundFile]:
    """Return the files at `path`, sorted by name: Parquet files unless other suffixes are given.

    A directory stands for its files with such a suffix at any depth, without those under a name that begins with
    `_` or `.` (as in Hive and Spark; `_key=value` is a partition), each folder once however many links lead to it. A glob
    takes the files that it matches whatever their suffix, and matched directories as above.

    Args:
        filesystem: Where to look.
        path: A file, directory or glob, as `filesystem_for` returns it.
        shown: What messages call the source.
        suffixes: What a directory's files end with.
        wanted: What messages call such files.

    Raises:
        InputRefused: If nothing is there, it may not be listed, a link leads nowhere, a file's name is not UTF-8, or a
            directory is one of `TABLES`.
    """
    try:
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.File:
            return [_found(path, path.rpartition("/")[0])]
        if info.type == fs.FileType.Directory:
            paths, root = list(_below(filesystem, path, suffixes)), path
            nothing = f"no {wanted} in this directory" + ("" if paths else _others(filesystem, path, shown))
        else:
            root = _fixed_part(path)
            if root == path:
                raise InputRefused(f"source.path={shown!r}: there is no such file or directory")
            paths = list(_expand(filesystem, root, path.removeprefix(root).strip("/").split("/"), suffixes))
            nothing = "no file matches this pattern"
        if not paths:
            raise InputRefused(f"source.path={shown!r}: {nothing}")
        return sorted((_found(p, root) for p in dict.fromkeys(paths)), key=lambda f: f.name)
    except PermissionError as error:
        raise InputRefused(f"source.path={shown!r}: permission denied: {without_secrets(str(error))}") from error
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise InputRefused(f"source.path={shown!r}: cannot be listed: {without_secrets(str(error))}") from error


def _others(filesystem: fs.FileSystem, folder: str, shown: str) -> str:
    """Return the end of a message: what a folder holds instead, and how to convert it; empty if it holds nothing."""
    names = sorted(found.name for found in entries(filesystem, folder) if found.kind is Kind.FILE)
    if not names:
        return ""
    imported = next(filter(is_imported, names), names[0])
    return f", but {len(names)} other, such as {one_line(imported)}{conversion(imported, shown)}"


def _found(path: str, root: str) -> FoundFile:
    name = _relative(path, root)
    if not name.isascii() and any("\ud800" <= c <= "\udfff" for c in name):
        raise InputRefused(f"{one_line(name)}: the file's name is not UTF-8; rename it")
    partitions: dict[str, str | None] = {}
    for folder in name.split("/")[:-1]:
        key, equals, value = folder.partition("=")
        if key and equals:
            partitions[_decoded(key, name)] = None if value == NULL_PARTITION else _decoded(value, name)
    return FoundFile(name, path, tuple(partitions), {k: v for k, v in partitions.items() if v is not None})


def _decoded(text: str, name: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise InputRefused(f"{one_line(name)}: the folder's name {text!r} is not percent-encoded UTF-8") from error


def _relative(path: str, root: str) -> str:
    return path.removeprefix(root.rstrip("/") + "/")


def _below(filesystem: fs.FileSystem, folder: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    _refuse_table(filesystem, folder)
    for found in entries(filesystem, folder, recursive=True):
        if found.kind is Kind.FILE and found.path.lower().endswith(suffixes):
            yield found.path
        # A link without a suffix may have been to a folder.
        elif found.kind is not Kind.FOLDER and (found.name.lower().endswith(suffixes) or "." not in found.name):
            _refuse_unreadable(found)


def _refuse_table(filesystem: fs.FileSystem, folder: str) -> None:
    """Refuse a table of whose files only some hold present rows: the others would be read, too."""
    for name, kind in TABLES.items():
        if filesystem.get_file_info(f"{folder.rstrip('/')}/{name}").type == fs.FileType.Directory:
            raise InputRefused(
                f"{one_line(folder)}: is a {kind} table, whose files hold rows of earlier versions, too; write its present "
                "rows as Parquet, or name the files with a glob"
            )


def _refuse_unreadable(found: Entry) -> None:
    """Refuse a link that leads nowhere, or a pipe or device: its rows would be missing without a word."""
    if found.kind is Kind.DANGLING:
        target = one_line(str(Path(found.path).readlink()))
        raise InputRefused(f"{one_line(found.path)}: a link to {target}, which is not there; mount or remove it")
    if found.kind is Kind.OTHER:
        raise InputRefused(f"{one_line(found.path)}: neither a file nor a folder; remove it from the source")


def _wild(segment: str) -> bool:
    return any(c in segment for c in "*?[")


def _fixed_part(path: str) -> str:
    """The folder above the first segment with a wildcard; the path itself if there is none."""
    segments = path.split("/")
    fixed = next((i for i, s in enumerate(segments) if _wild(s)), len(segments))
    return "/".join(segments[:fixed]) or ("/" if path.startswith("/") else "")


def _expand(filesystem: fs.FileSystem, folder: str, segments: list[str], suffixes: tuple[str, ...]) -> Iterator[str]:
    """Match a glob one segment at a time, so that only folders that can match are listed."""
    segment, rest = segments[0], segments[1:]
    if segment == "**":
        if not rest:
            yield from _below(filesystem, folder, suffixes)
            return
        yield from _expand(filesystem, folder, rest, suffixes)
        for found in list(entries(filesystem, folder, recursive=True)):
            if found.kind is Kind.FOLDER:
                yield from _expand(filesystem, found.path, rest, suffixes)
        return
    if _wild(segment):
        matches = [e for e in entries(filesystem, folder) if fnmatch.fnmatchcase(e.name, segment)]
    else:
        at = entry(filesystem, f"{folder.rstrip('/')}/{segment}")
        matches = [at] if at is not None else []
    for found in matches:
        if found.kind is Kind.FOLDER:
            below = _below(filesystem, found.path, suffixes)
            yield from _expand(filesystem, found.path, rest, suffixes) if rest else below
        elif found.kind is Kind.FILE and not rest:
            yield found.path
        elif found.kind is not Kind.FILE:
            _refuse_unreadable(found)
