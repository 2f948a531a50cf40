"""The console script: `promptmill JOB [OVERRIDES]` is `python -m jobs.JOB [OVERRIDES]`.

A job's module describes the job; the libraries that it needs are imported when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from jobs.console.launch import launch, show
from jobs.console.leave import leave
from jobs.console.streams import prepare
from jobs.spec import specs
from pipeline import __version__
from pipeline.errors import ExitCode
from pipeline.wording import did_you_mean, one_line

# Commands that are not jobs.
TOOLS = {
    "look": "show, with 5 rows: promptmill look FOLDER [--errors]",
    "help": "a job's page: promptmill help JOB",
    "completion": "for a shell: promptmill completion bash, zsh or fish",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Find the job and run it with the rest of the command line; return its exit code."""
    prepare()
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name == "help" and rest:
        name, *rest = rest[0], "--help"
    if name in ("-h", "--help", "help"):
        return show(page() + "\n")
    if name == "completion":
        return _completion(rest)
    if name == "look":
        name, rest = "show", ["limit=5", *rest]
    if name in ("-V", "--version"):
        return show(f"promptmill {__version__}\n")
    jobs = specs()
    if name not in jobs:
        print(f"promptmill: {_unknown(name, list(jobs))}", file=sys.stderr)
        return ExitCode.REFUSED
    return launch(jobs[name], rest)


def run() -> NoReturn:
    """The console script."""
    leave(main())


def page() -> str:
    """Lay out the page that names the jobs."""
    jobs = specs()
    width = max(map(len, [*jobs, *TOOLS]))
    return "\n".join(
        [
            f"promptmill {__version__}: batch text generation, from Parquet to Parquet",
            "",
            "Usage",
            "  promptmill JOB [KEY=VALUE | GROUP=PRESET ...]",
            "  promptmill JOB --help",
            "  promptmill --version",
            "",
            "Jobs",
            *(f"  {name:<{width}}  {job.summary}" for name, job in jobs.items()),
            "",
            "Tools",
            *(f"  {name:<{width}}  {text}" for name, text in TOOLS.items()),
            "",
            "Start with",
            "  promptmill generate experiment=demo",
        ]
    )


def _completion(words: Sequence[str]) -> int:
    from jobs.help.completion import SHELLS, script

    if len(words) != 1 or words[0] not in SHELLS:
        given = " ".join(["completion", *words])
        print(f"promptmill: {given}: for which shell? promptmill completion {', '.join(SHELLS)}", file=sys.stderr)
        return ExitCode.REFUSED
    jobs = specs()
    return show(script(words[0], [*jobs, *TOOLS], {name: job.schema for name, job in jobs.items()}))


def _unknown(name: str, jobs: Sequence[str]) -> str:
    hint = did_you_mean(name, [*jobs, *TOOLS])
    if not hint and ("=" in name or name.startswith("-")):
        return f"{name}: the job comes first: promptmill JOB {name}; there are {', '.join(jobs)}"
    return f"{one_line(name)}: no such job{hint + ' ' if hint else '; '}there are {', '.join(jobs)}"


if __name__ == "__main__":
    leave(main())
