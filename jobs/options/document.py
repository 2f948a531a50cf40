"""Writes the reference documentation of all options and columns: `python -m jobs.options.document docs/reference`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from jobs.options.keys import Key, keys, sections
from jobs.options.page import written_default
from jobs.spec import specs
from pipeline.errors import ExitCode
from pipeline.output.schema import COLUMNS, MEANINGS, spelled
from pipeline.output.scores.schema import COLUMNS as SCORES
from pipeline.output.scores.schema import MEANINGS as SCORES_MEAN


def options() -> str:
    """Return the page of the options in Markdown: a table for each job and section, then the exit codes."""
    lines = [
        "# Options",
        "",
        "`promptmill JOB --help` prints the same, with the presets. `make options` writes this page.",
    ]
    for job, spec in specs().items():
        schema, summary = spec.schema, spec.summary
        lines += ["", f"## {job}", "", f"`promptmill {job}`: {summary}."]
        known = list(keys(schema).values())
        for section, meaning in sections(schema).items():
            lines += ["", f"### {job}: {section}", "", f"{meaning[0].upper()}{meaning[1:]}.", ""]
            lines += _table(key for key in known if key.name.startswith(f"{section}."))
        lines += ["", f"### {job}: the run as a whole", "", *_table(key for key in known if "." not in key.name)]
    lines += ["", "## Exit codes", "", "| exit code | meaning |", "|---|---|"]
    lines += [f"| {int(code)} | {code.meaning} |" for code in ExitCode]
    return "\n".join(lines) + "\n"


def columns() -> str:
    """Return the page of the output's columns in Markdown."""
    lines = [
        "# Columns",
        "",
        "The columns of an output, in their order; columns that are copied from the input stand after",
    ]
    lines += ["`sample_index`. `make options` writes this page.", "", "| column | type | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | `{spelled(kind)}` | {_cell(MEANINGS[name])} |" for name, kind in COLUMNS.items()]
    lines += ["", "## Scored texts", "", "The columns of an output of `score`:", ""]
    lines += ["| column | type | meaning |", "|---|---|---|"]
    lines += [f"| `{name}` | `{spelled(kind)}` | {_cell(SCORES_MEAN[name])} |" for name, kind in SCORES.items()]
    return "\n".join(lines) + "\n"


def _table(options: Iterator[Key]) -> Iterator[str]:
    yield from ("| option | default | meaning |", "|---|---|---|")
    for key in options:
        default = "required" if key.required else f"`{written_default(key.default)}`"
        yield f"| `{key.name}` | {default} | {_cell(key.help)} |"


def _cell(text: str) -> str:
    """Keep a text within its cell."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("$", "\\$")


if __name__ == "__main__":
    for name, text in (("options", options()), ("columns", columns())):
        (Path(sys.argv[1]) / f"{name}.md").write_text(text, encoding="utf-8")
