"""What is said at the end of an import: what was written, and the command to go on with."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.types as kinds

from pipeline.prompts.files.kinds import is_text
from pipeline.prompts.imports.importing import Imported
from pipeline.wording import counted, one_line, override

_MESSAGES = ("messages", "conversation", "conversations", "chat", "dialog")
_PROMPTS = ("prompt", "question", "instruction", "input", "query", "text", "content")
_IDS = ("custom_id", "id", "row_id", "uuid")


def lines(made: Imported) -> Iterator[str]:
    """Yield the lines, for a person."""
    rate = f"{made.rows / made.seconds:,.0f} rows/s" if made.seconds >= 1 else "in less than a second"
    skipped = f", {counted(made.skipped, 'line')} left out" if made.skipped else ""
    size = f"{made.size / 1e6:,.1f} MB" if made.size >= 1e5 else counted(made.size, "byte")
    yield (
        f"{shown(made.path)}: {counted(made.rows, 'row')} in {counted(made.groups, 'row group')}, {size}, {rate}{skipped}"
    )
    yield "columns: " + ", ".join(f"{one_line(name, 60)} ({spelled(kind)})" for name, kind in made.columns.items())
    yield from made.notes
    yield f"go on with: {command(made)}"


def shown(path: Path) -> str:
    """A path as a command takes it from here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def spelled(kind: Any) -> str:
    """A type in a few words."""
    if kinds.is_list(kind):
        return f"list of {spelled(kind.value_type)}"
    if kinds.is_struct(kind):
        return one_line("{" + ", ".join(f"{f.name}: {spelled(f.type)}" for f in kind) + "}", 160)
    return "text" if is_text(kind) else str(kind)


def command(made: Imported) -> str:
    """Return the command that generates from the file, with the columns that are unambiguous."""
    target = made.path.name.partition(".")[0] or "prompts"
    uses = [("source.path", shown(made.path)), *_uses(made.columns), ("output.path", f"outputs/{target}")]
    return shlex.join(["promptmill", "generate", *(override(key, value) for key, value in uses)])


def _uses(columns: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    texts = [name for name, kind in columns.items() if is_text(kind)]
    of_role = [name for name, kind in columns.items() if kinds.is_list(kind) and _is_message(kind.value_type)]
    as_text = [name for name in _MESSAGES[:1] if name in texts]
    named = [name for name in _PROMPTS if name in texts]
    identity = next((n for n in _IDS if n in columns and (n in texts or kinds.is_integer(columns[n]))), None)
    free = [name for name in texts if name not in (identity, "sampling", "tools", "unmapped", "file")]
    if of_role or as_text:
        preferred = [name for name in _MESSAGES if name in of_role] + of_role + as_text
        yield "source.messages_column", preferred[0]
    elif named or len(free) == 1:
        column = (named or free)[0]
        if column != "prompt":
            yield "source.prompt_column", column
    else:
        yield "source.prompt_column", "COLUMN"
    if identity is not None:
        yield "source.id_column", identity
    if "sampling" in columns and (is_text(columns["sampling"]) or kinds.is_struct(columns["sampling"])):
        yield "source.sampling_column", "sampling"


def _is_message(kind: Any) -> bool:
    return kinds.is_struct(kind) and {"role", "content"} <= {field.name for field in kind}
