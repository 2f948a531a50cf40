"""`promptmill look FOLDER`: shows the first rows of an output, or its errors, as far as it is made.

It does not know how rows are read.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence

from jobs.launch import show
from pipeline.errors import ConfigurationError, PromptmillError

ROWS = 5
USAGE = "promptmill look FOLDER [--errors]: the first rows of an output, or its first errors"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the rows, and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    folders = [word.removeprefix("output.path=") for word in words if not word.startswith("-")]
    if {"-h", "--help"} & set(words):
        return show(USAGE + "\n")
    try:
        if len(folders) != 1 or {word for word in words if word.startswith("-")} - {"--errors"}:
            raise ConfigurationError(f"look {' '.join(words)}".strip() + f": give one output's folder: {USAGE}")
        return show("".join(f"{line}\n" for line in _lines(folders[0], errors="--errors" in words)))
    except PromptmillError as error:
        print("promptmill:", " ".join(str(error).split("\n")), file=sys.stderr)
        return error.exit_code


def _lines(folder: str, *, errors: bool) -> Iterator[str]:
    """What there is to see of an output."""
    from pipeline.output.card.samples import read_rows  # late: it brings in pyarrow
    from pipeline.run.show.summary import fitted
    from pipeline.store.base import open_store

    rows = read_rows(open_store(folder), ROWS, errors=errors)
    if rows is None:
        raise ConfigurationError(f"look {folder}: there is no part of an output in {folder}/data")
    width = shutil.get_terminal_size((100, 24)).columns
    for row in rows:
        why = f"{row['finish_reason']}: {row['error_code']}" if row["error_code"] else row["finish_reason"]
        yield fitted(f"{row['row_id']} #{row['sample_index']} ({why})", width)
        if row.get("prompt"):
            yield f"  prompt: {fitted(row['prompt'], width - 10, tail=True)}"
        if row["error_message"] or row["text"]:
            name = "error:" if row["error_message"] else "text:"
            yield f"  {name:<7} {fitted(row['error_message'] or row['text'], width - 10)}"
    if not rows:
        yield "no errors" if errors else "no rows"
