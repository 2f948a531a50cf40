"""Finds out which format a file has: by its name, and by its first bytes where the name leaves it open."""

from __future__ import annotations

import json
from typing import Any

from pipeline.errors import InputRefused
from pipeline.prompts.files.foreign import PACKED
from pipeline.prompts.imports.chunk import MOST_BYTES
from pipeline.prompts.imports.opened import PEEK, Opened

_BY_NAME = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".txt": "text",
}  # fmt: skip


def format_of(opened: Opened, *, of_many: bool) -> str:
    """Return the format of a file.

    Args:
        opened: The file.
        of_many: Whether it was found through a folder or glob; then a text file is one prompt.

    Raises:
        InputRefused: If neither name nor content tells.
    """
    name = opened.name.lower()
    for ending in PACKED:
        name = name.removesuffix(ending)
    by_name = next((kind for ending, kind in _BY_NAME.items() if name.endswith(ending)), "")
    if by_name in ("", "jsonl", "json"):
        return _of_json(opened, by_name)
    return "files" if by_name == "text" and of_many else by_name


def _of_json(opened: Opened, by_name: str) -> str:
    head = _head(opened)
    line, end, _ = head.partition(b"\n")
    first = _object(line)
    if first is not None and isinstance(first.get("body"), dict) and "custom_id" in first:
        return "openai_batch"
    if first is not None:
        return "jsonl"
    if head.startswith(b"["):
        return "json"
    if by_name == "json" or (head.startswith(b"{") and line.strip() == b"{"):
        return "json"
    if by_name:
        return by_name
    if head.startswith(b"{") and not end:
        return "json"
    raise InputRefused(
        f"{opened.name}: neither its name nor its first line says which format it has; say it with format=jsonl, json, csv, "
        "tsv, text, files or openai_batch"
    )


def _head(opened: Opened) -> bytes:
    """Return the first bytes that are not blank: of an object, which may be a request with a long prompt, its whole line."""
    count = PEEK
    while True:
        read = opened.peek(count)
        head = read.lstrip()
        if not head.startswith(b"{") or b"\n" in head or len(read) < count or count >= MOST_BYTES:
            return head
        count = min(4 * count, MOST_BYTES)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
