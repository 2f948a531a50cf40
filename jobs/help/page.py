"""Lays out a job's help page from its dataclasses, its presets and the meaning of every key.

It imports no Hydra, so that help is quick.
"""

from __future__ import annotations

import importlib.resources
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from jobs.options.arguments import FLAGS
from jobs.options.keys import Key, keys, sections
from jobs.spec import JobSpec

WIDTH = 100
"""Columns at most, and where it is no terminal."""
VALUES = (
    "A value is written as in Hydra: text, 1.5, true, null, [a,b]. A text with special characters (braces, quotes, commas) "
    "goes into double quotes, and the whole word into single quotes for the shell:",
    """'source.template="Write about {{ topic }}."'""",
    r"""'sampling.stop=["\n\n",END]'""",
    r"Inside the double quotes \" is a quote and, in templates and stop strings, \n is a newline.",
)


def job_page(job: JobSpec[Any]) -> str:
    """Return the page that `promptmill JOB --help` prints."""
    lines = [*textwrap.wrap(f"promptmill {job.name}: {job.summary}", page_width()), "", "Usage"]
    lines += [*(f"  promptmill {job.name} {words}" for words in job.usage), ""]
    lines += list(_table([*FLAGS, *((flag, text) for flag, _, text in job.flags)]))
    if of_groups := list(_presets(job.name)):
        lines += ["", "Presets (GROUP=PRESET, * is the default)", *of_groups]
    known = keys(job.schema)
    for section, meaning in sections(job.schema).items():
        lines += ["", *textwrap.wrap(f"{section}: {meaning}", page_width(), subsequent_indent="  ")]
        lines += list(_table([(k.name, _entry(k)) for k in known.values() if k.name.startswith(f"{section}.")]))
    lines += ["", f"{job.name}: the run as a whole"]
    lines += list(_table([(k.name, _entry(k)) for k in known.values() if "." not in k.name]))
    lines += ["", "Values", *_values()]
    lines += ["", "Examples"]
    for text, command in job.examples:
        lines += [f"  # {text}", *_wrapped_command(command)]
    lines += ["", "Exit codes", *_table([(str(int(code)), code.meaning) for code in job.exit_codes], width=5)]
    return "\n".join(lines)


def presets(group: str) -> dict[str, str]:
    """List a group's presets, each with the comment at the head of its file."""
    folder = importlib.resources.files("conf") / group
    found = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.name.removesuffix(".yaml")):
        if file.name.endswith(".yaml"):
            lines = file.read_text(encoding="utf-8").splitlines()
            comments = [x[1:].strip() for x in lines if x.startswith("#") and not x.startswith("# @package")]
            found[file.name.removesuffix(".yaml")] = comments[0] if comments else ""
    return found


def default_presets(job: str) -> dict[str, str]:
    """Read which preset of each group a job's defaults list takes; `null` is none."""
    text = (importlib.resources.files("conf") / f"{job}.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r"^  - (\w+): (\S+)$", text, flags=re.MULTILINE))


def _presets(job: str) -> Iterator[str]:
    defaults = default_presets(job)
    for group, chosen in defaults.items():
        for name, text in presets(group).items():
            star = "*" if name == chosen else " "
            head = f"  {group:<11}{star} {name:<13} "
            yield from textwrap.wrap(
                head + text, page_width(), subsequent_indent=" " * (len(head) if page_width() >= 75 else 6)
            )
            group = ""


def _entry(key: Key) -> str:
    return key.help + (" (required)" if key.required else f" [{written_default(key.default)}]")


def written_default(value: Any) -> str:
    """Write a default as on a command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if value == "":
        return '""'
    return repr(value)[1:-1] if isinstance(value, str) and not value.isprintable() else str(value)


def page_width() -> int:
    """The terminal's width, within bounds in which the page can be read."""
    return max(40, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))


def _values() -> Iterator[str]:
    for text in VALUES:
        if text.startswith("'"):
            yield f"    {text}"
        else:
            yield from textwrap.wrap(text, page_width(), initial_indent="  ", subsequent_indent="  ")


def _table(rows: Sequence[tuple[str, str]], width: int = 30) -> Iterator[str]:
    for name, text in rows:
        if page_width() < 75 and width > 10:  # the meaning goes below the name
            yield f"  {name}"
            yield from textwrap.wrap(
                text, page_width(), initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
            )
            continue
        first, *more = textwrap.wrap(text, page_width() - width - 3, break_on_hyphens=False) or [""]
        yield f"  {name:<{width}} {first}".rstrip()
        yield from (f"  {'':<{width}} {line}" for line in more)


def _wrapped_command(command: str) -> Iterator[str]:
    """Break a command between its words; quoted words stay whole, even if they are too long."""
    words = re.findall(r"(?:'[^']*'|[^\s'])+", command)
    line = "   "
    for word in words:
        if len(line) + len(word) + 3 > page_width() and line.strip():
            yield f"{line} \\"
            line = "       "
        line += f" {word}"
    yield line
