"""The console script: `promptmill JOB [OVERRIDES]` is `python -m jobs.JOB [OVERRIDES]`.

It knows the jobs by name and one line only; a job's module is imported when the job is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from jobs.launch import show
from jobs.leave import leave
from pipeline import __version__

# To add a job: its module in this folder, with a `main(argv)`, and a line here.
JOBS = {
    "generate": "prompts in Parquet → generations and per-token statistics in Parquet",
    "verify": "proves an output complete and intact; replays rows and compares their bits",
    "submit": "hands a job to a Ray cluster and follows it",
}


# Words that are no jobs: they take no configuration.
TOOLS = {
    "look": "the first rows of an output, or its errors: promptmill look FOLDER [--errors]",
    "help": "a job's page: promptmill help JOB",
    "completion": "for a shell: promptmill completion bash, zsh or fish",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Find the job and run it with the rest of the command line; return its exit code."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name == "help" and rest:
        name, *rest = rest[0], "--help"
    if name in ("-h", "--help", "help"):
        return show(page() + "\n")
    if name == "completion":
        return _completion(rest)
    if name == "look":
        return int(importlib.import_module("jobs.look").main(rest))
    if name in ("-V", "--version"):
        print(f"promptmill {__version__}")
        return 0
    if name not in JOBS:
        print(f"promptmill: {_unknown(name)}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(f"jobs.{name}").main(rest)
    return code


def run() -> NoReturn:
    """The console script."""
    leave(main())


def page() -> str:
    """Lay out the page that names the jobs."""
    width = max(map(len, [*JOBS, *TOOLS]))
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
            *(f"  {name:<{width}}  {text}" for name, text in JOBS.items()),
            "",
            "Tools",
            *(f"  {name:<{width}}  {text}" for name, text in TOOLS.items()),
            "",
            "Start with",
            "  promptmill generate experiment=demo",
        ]
    )


def _completion(words: Sequence[str]) -> int:
    from jobs.completion import SHELLS, script
    from pipeline.inspect.config import VerifyConfig
    from pipeline.run.config import SubmitConfig
    from pipeline.work.config import GenerateConfig

    if len(words) != 1 or words[0] not in SHELLS:
        given = " ".join(["completion", *words])
        print(f"promptmill: {given}: for which shell? promptmill completion {', '.join(SHELLS)}", file=sys.stderr)
        return 2
    schemas: dict[str, type] = {"generate": GenerateConfig, "verify": VerifyConfig, "submit": SubmitConfig}
    return show(script(words[0], [*JOBS, *TOOLS], schemas))


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, [*JOBS, *TOOLS], n=1)
    if not close and ("=" in name or name.startswith("-")):
        return f"{name}: the job comes first: promptmill JOB {name}; there are {', '.join(JOBS)}"
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"{name}: no such job{hint}; there are {', '.join(JOBS)}"


if __name__ == "__main__":
    leave(main())
