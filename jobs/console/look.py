"""`promptmill look FOLDER`: shows the first rows of an output, or its errors; the output may be unfinished."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Iterator, Sequence

from jobs.console.launch import show
from pipeline.errors import ConfigurationError, PromptmillError

ROWS = 5
_COLUMNS = ("row_id", "sample_index", "prompt", "text", "finish_reason", "error_code", "error_message")
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
    """Yield the lines to print."""
    from pipeline.inspect.output import open_output  # imported late: it loads pyarrow
    from pipeline.run.show.summary import fitted

    output = open_output(folder)
    if not output.parts():
        raise ConfigurationError(f"look {folder}: no part is committed yet")
    found = (row for batch in output.rows(_COLUMNS) for row in batch.to_pylist())
    rows = list(itertools.islice((row for row in found if row["error_code"] is not None or not errors), ROWS))
    width = shutil.get_terminal_size((100, 24)).columns
    for row in rows:
        why = f"error: {row['error_code']}" if row["error_code"] else row.get("finish_reason", "done")
        yield fitted(f"{row['row_id']} #{row['sample_index']} ({why})", width)
        if row.get("prompt"):
            yield f"  prompt: {fitted(row['prompt'], width - 10, tail=True)}"
        if row["error_message"] or row.get("text"):
            name = "error:" if row["error_message"] else "text:"
            yield f"  {name:<7} {fitted(row['error_message'] or row['text'], width - 10)}"
    if not rows:
        yield "no errors" if errors else "no rows"
