"""Names the command that converts a file of another format to Parquet, judging by the file's name alone."""

from __future__ import annotations

import json
import shlex
from pathlib import PurePath

from pipeline.wording import override

IMPORTED = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".txt")
"""What `promptmill import` reads."""
PACKED = (".gz", ".zst", ".bz2", ".xz", ".lz4")
"""How that may be compressed."""
_READERS = {".feather": "feather", ".orc": "orc"}
"""Ending → the module of pyarrow that reads such a file."""
_OTHERS = (".xlsx", ".xls", ".arrow", ".db", ".sqlite", ".zip", ".tar", ".parquet.gz")


def conversion(name: str, given: str | None = None) -> str:
    """Return the end of a message about a file: the command that converts it; empty if its name is of no known format.

    Args:
        name: The file, as a command can take it.
        given: The folder, glob or URI that was asked for, if not the file itself.
    """
    if is_imported(name):
        return f"; prompts are read from Parquet: {import_command(given or name)} makes it"
    for ending, module in _READERS.items():
        if name.lower().endswith(ending):
            source, target = (json.dumps(n, ensure_ascii=False) for n in (name, name[: -len(ending)] + ".parquet"))
            code = (
                f"from pyarrow import {module}, parquet; parquet.write_table({module}.read_table({source}), {target})"
            )
            return f"; prompts are read from Parquet: convert it once with python -c {shlex.quote(code)}"
    if name.lower().endswith(_OTHERS):
        return "; prompts are read from Parquet: convert it once (CONTRIBUTING.md, Add a prompt source)"
    return ""


def is_imported(name: str) -> bool:
    """Whether `promptmill import` reads a file of this name."""
    return _plain(name) != name


def import_command(path: str) -> str:
    """Return the shell command that converts a file, folder or glob to Parquet."""
    stem = PurePath(_plain(path.rstrip("/"))).name
    stem = "prompts" if not stem or any(c in stem for c in "*?[") or stem in (".", "..") else stem
    folder = "" if "://" in path or any(c in path for c in "*?[") else path.rstrip("/").rpartition("/")[0]
    target = f"{folder}/{stem}.parquet" if folder else f"{stem}.parquet"
    return f"promptmill import {_word('source.path', path)} {_word('output.path', target)}"


def _plain(name: str) -> str:
    """Return the name without the suffixes of formats and compressions."""
    rest = name
    for ending in PACKED:
        if rest.lower().endswith(ending):
            rest = rest[: -len(ending)]
    for ending in IMPORTED:
        if rest.lower().endswith(ending):
            return rest[: -len(ending)]
    return name


def _word(key: str, path: str) -> str:
    """Return a path as a word of the command line, with its key before it if it looks like an option."""
    return shlex.quote(path if "=" not in path and not path.startswith(("-", "~")) else override(key, path))
