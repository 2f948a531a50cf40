"""Writes the reference pages that the code decides: `python -m jobs.help.document docs/reference`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from jobs.help.page import written_default
from jobs.options.keys import Key, keys, sections
from jobs.spec import specs
from pipeline.errors import ExitCode
from pipeline.output.record.events import EVENTS
from pipeline.output.schema import COLUMNS, MEANINGS, spelled
from pipeline.output.scores.schema import COLUMNS as SCORES
from pipeline.output.scores.schema import MEANINGS as SCORES_MEAN

_NAMED = re.compile(r"^[a-z]+(?=: )|max_error_rate")
"""What stands in the meaning of an exit code and is written as code: a job, a key."""


def options() -> str:
    """Return the page of the options in Markdown: a table for each job and section."""
    lines = [
        "# Options",
        "",
        "Every option of every job. `promptmill JOB --help` prints the same; `make options` writes this page.",
    ]
    for job, spec in specs().items():
        schema, summary = spec.schema, spec.summary
        lines += ["", f"## {job}", "", f"`promptmill {job}`: {summary}."]
        known = list(keys(schema).values())
        if (first := _told_before(schema)) is not None:
            told, without = keys(first[1]), _left_out(first[1], schema)
            but = f" except {', '.join(f'`{name}`' for name in without)}" if without else ""
            lines += ["", f"It takes all options of [{first[0]}](#{first[0]}){but}, and:", ""]
            lines += _table(key for key in known if key.name not in told)
            continue
        for section, meaning in sections(schema).items():
            lines += ["", f"### {job}: {section}", "", f"{meaning[0].upper()}{meaning[1:]}.", ""]
            lines += _table(key for key in known if key.name.startswith(f"{section}."))
        if whole := [key for key in known if "." not in key.name]:
            lines += ["", f"### {job}: the run as a whole", "", *_table(whole)]
    return "\n".join(lines) + "\n"


def _told_before(schema: type) -> tuple[str, type] | None:
    """Return the job whose options a job has, too, and its schema; None if there is none."""
    found = ((job, spec.schema) for job, spec in specs().items() if spec.schema in schema.__mro__[1:])
    return next(found, None)


def _left_out(first: type, schema: type) -> list[str]:
    """Return the options of a job that another one lacks; a section that it lacks as a whole is one name."""
    lacking = [name for name in keys(first) if name not in keys(schema)]
    whole = [section for section in sections(first) if section not in sections(schema)]
    return list(dict.fromkeys(f"{s}.…" if (s := name.partition(".")[0]) in whole else name for name in lacking))


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


def exit_codes() -> str:
    """Return the page of the exit codes in Markdown."""
    lines = [
        "# Exit codes",
        "",
        "How a command ends. `make options` writes this page.",
        "",
        "| code | meaning |",
        "|---|---|",
        *(f"| {int(code)} | {_cell(_as_code(code.meaning))} |" for code in ExitCode),
        "",
        "An error message is one line on stderr. `HYDRA_FULL_ERROR=1` adds the traceback.",
        "[Operations](operations.md#exit-codes-for-a-scheduler) says what a scheduler should do with each code.",
    ]
    return "\n".join(lines) + "\n"


def events() -> str:
    """Return the page of the events in Markdown."""
    lines = [
        "# Events",
        "",
        "Each driver logs what happens in a file of its own, `_job/events/<driver>.jsonl`: one JSON object per line, with the",
        "`time` (UTC, ISO 8601), the `event` and its facts. `make options` writes this page.",
        "",
        "| event | says | facts |",
        "|---|---|---|",
    ]
    lines += [
        f"| `{event.name}` | {_cell(event.meaning)} | {', '.join(f'`{fact}`' for fact in event.facts)} |"
        for event in EVENTS.values()
    ]
    lines += [
        "",
        "Shards are numbered from 0, as in the names of the parts; rows are counted from 0 within their shard. Only trials",
        "have `trial`. [Operations](operations.md#where-to-look) has commands that read these files.",
    ]
    return "\n".join(lines) + "\n"


PAGES = {"options": options, "columns": columns, "exit-codes": exit_codes, "events": events}


def _as_code(meaning: str) -> str:
    return _NAMED.sub(lambda found: f"`{found[0]}`", meaning)


def _table(options: Iterable[Key]) -> Iterator[str]:
    yield from ("| option | default | meaning |", "|---|---|---|")
    for key in options:
        default = "required" if key.required else f"`{written_default(key.default)}`"
        yield f"| `{key.name}` | {default} | {_cell(key.help)} |"


def _cell(text: str) -> str:
    """Keep a text within its cell."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("$", "\\$")


if __name__ == "__main__":
    for name, written in PAGES.items():
        (Path(sys.argv[1]) / f"{name}.md").write_text(written(), encoding="utf-8")
