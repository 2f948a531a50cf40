"""`promptmill show`: rows of an output in the terminal, also of one that is still being made."""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial

from jobs.console.launch import launch
from jobs.console.leave import leave
from jobs.console.streams import write
from jobs.spec import JobSpec
from pipeline.errors import ExitCode
from pipeline.inspect.config import ShowConfig


def run(config: ShowConfig, config_yaml: str) -> int:
    """Show the rows, and return the exit code."""
    from pipeline.stages import Stage

    with Stage("starting"):
        from jobs.options.spelling import tokenizer_of  # late: these bring in pyarrow
        from pipeline.inspect.show.show import show
        from pipeline.run.signals import signals_raise

    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = shutil.get_terminal_size((100, 24)).columns
    with signals_raise():
        pages = show(config, tokenizer_of, coloured=coloured, width=width)
        while True:
            with Stage(f"reading {config.output.path}"):
                page = next(pages, None)
            if page is None or not write(page):  # if nobody reads on, the rest need not be looked for
                return ExitCode.COMPLETE


JOB = JobSpec(
    name="show",
    summary="shows rows of an output in the terminal, also while it is being made",
    schema=ShowConfig,
    run=run,
    positional=("output.path",),
    verbatim=("row_id", "where"),
    flags=(("--errors", "where=error_code!=null", "only rows that are errors"),),
    usage=("OUT [KEY=VALUE ...]", "output.path=... [KEY=VALUE ...]"),
    examples=(
        ("the first rows", "promptmill show outputs/first"),
        ("one row, its tokens coloured by rank", "promptmill show outputs/first row_id=prompts.parquet:3 tokens=true"),
        ("errors", "promptmill show outputs/first where='finish_reason=error'"),
        (
            "long texts that ended by themselves",
            "promptmill show outputs/first where='completion_tokens>=50 and finish_reason=stop' limit=3",
        ),
    ),
    exit_codes=(
        ExitCode.COMPLETE, ExitCode.UNEXPECTED, ExitCode.REFUSED, ExitCode.STOPPED, ExitCode.INTERRUPTED, ExitCode.TERMINATED,
    ),
)  # fmt: skip


main = partial(launch, JOB)

if __name__ == "__main__":
    leave(main())
