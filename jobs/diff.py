"""`promptmill diff`: two outputs side by side, row by row, and the cause of what differs."""

from __future__ import annotations

from functools import partial

from jobs.console.launch import launch, show
from jobs.console.leave import leave
from jobs.spec import JobSpec
from pipeline.errors import ExitCode
from pipeline.inspect.config import DiffConfig


def run(config: DiffConfig, config_yaml: str) -> int:
    """Compare, print what was found, write the files that are asked for, and return the exit code."""
    from pipeline.stages import Stage, doing

    with Stage("starting"):
        from jobs.options.spelling import tokenizer_of  # late: these bring in pyarrow
        from pipeline.inspect.diff.diff import diff
        from pipeline.inspect.diff.page import diff_page
        from pipeline.inspect.diff.result import Difference
        from pipeline.inspect.diff.table import lines
        from pipeline.inspect.files import check_file, put_file
        from pipeline.run.signals import signals_raise

    wanted = (("json", config.json, Difference.to_json), ("html", config.html, diff_page))
    reached = (0, 0)

    def progress(done: int, rows: int) -> None:
        nonlocal reached
        reached = done, rows

    with signals_raise(), Stage(f"comparing {config.a} with {config.b}"):
        for key, file, _ in wanted:
            if file is not None:
                check_file(key, file)
        with doing("rows", lambda: f"{reached[0]:,} of {reached[1]:,}"):
            found = diff(config, tokenizer_of, progress)
        for key, file, made in wanted:
            if file is not None:
                put_file(key, file, made(found))
    show("".join(f"{line}\n" for line in lines(found)))
    return ExitCode.COMPLETE if found.equal else ExitCode.DIFFERENT


JOB = JobSpec(
    name="diff",
    summary="compares two outputs row by row, and names the cause of what differs",
    schema=DiffConfig,
    run=run,
    positional=("a", "b"),
    usage=("A B [KEY=VALUE ...]", "a=... b=... [KEY=VALUE ...]"),
    examples=(
        ("two outputs", "promptmill diff outputs/first outputs/second"),
        ("for programs, too", "promptmill diff a=outputs/first b=outputs/second json=diff.json"),
        ("a page with the rows side by side", "promptmill diff outputs/first outputs/second html=diff.html"),
    ),
    exit_codes=(
        ExitCode.COMPLETE, ExitCode.UNEXPECTED, ExitCode.REFUSED, ExitCode.DIFFERENT, ExitCode.STOPPED, ExitCode.INTERRUPTED,
        ExitCode.TERMINATED,
    ),
)  # fmt: skip


main = partial(launch, JOB)

if __name__ == "__main__":
    leave(main())
