"""Finds the files that are to be imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyarrow import fs

from pipeline.prompts.files.foreign import IMPORTED, PACKED
from pipeline.prompts.files.locate import filesystem_for, find_files
from pipeline.wording import without_secrets

_ENDINGS = {
    "auto": IMPORTED, "jsonl": (".jsonl", ".ndjson", ".json"), "json": (".json",), "csv": (".csv",), "tsv": (".tsv", ".tab"),
    "text": (".txt",), "files": ("",), "openai_batch": (".jsonl", ".ndjson"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Input:
    """An input file: its name in messages, where it is, and whether it was found through a folder or glob."""

    name: str
    filesystem: fs.FileSystem
    path: str
    size: int
    of_many: bool


def find_inputs(paths: Sequence[str], kind: str) -> list[Input]:
    """Return the files at some paths, in the order of the paths; those of a folder or glob are sorted by name.

    Args:
        paths: Files, folders, globs or URIs.
        kind: The format, which decides which files of a folder count.

    Raises:
        InputRefused: If there is nothing at one of them.
    """
    suffixes = tuple(ending + packed for ending in _ENDINGS[kind] for packed in ("", *PACKED))
    found: list[Input] = []
    for path in paths:
        filesystem, inner = filesystem_for(path)
        files = find_files(filesystem, inner, without_secrets(path), suffixes, "files that can be imported")
        many = len(files) > 1 or files[0].path != inner
        for file in files:
            size = filesystem.get_file_info(file.path).size or 0
            found.append(Input(file.name if many or "://" in path else path, filesystem, file.path, size, many))
    return found
