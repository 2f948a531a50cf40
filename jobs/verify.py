"""`promptmill verify`: proves an output complete and intact, and generates some of its rows again."""

from __future__ import annotations

from functools import partial

from jobs.console.launch import launch, show
from jobs.console.leave import leave
from jobs.spec import JobSpec
from pipeline.errors import ExitCode
from pipeline.inspect.config import VerifyConfig


def run(config: VerifyConfig, config_yaml: str) -> int:
    """Verify, print a line a finding, and return the exit code."""
    from pipeline.stages import Stage

    with Stage("starting"):
        from jobs.options.restore import job_of  # late: these bring in Hydra and pyarrow
        from pipeline.inspect.verify.verify import verify
        from pipeline.run.signals import signals_raise

    with signals_raise(), Stage(f"reading {config.output.path}"):
        return verify(config, tell=_tell, restore=job_of)


def _tell(line: str) -> None:
    show(f"{line}\n")


JOB = JobSpec(
    name="verify",
    summary="proves an output complete and intact; replays rows and compares their bits",
    schema=VerifyConfig,
    run=run,
    positional=("output.path",),
    usage=("OUT [KEY=VALUE ...]", "output.path=OUT [KEY=VALUE ...]"),
    examples=(
        ("every file, page and row", "promptmill verify output.path=outputs/first"),
        ("ten rows generated again on this machine, too", "promptmill verify output.path=outputs/first replay=10"),
    ),
    exit_codes=(
        ExitCode.COMPLETE,
        ExitCode.UNEXPECTED,
        ExitCode.REFUSED,
        ExitCode.DAMAGED,
        ExitCode.STOPPED,
        ExitCode.INTERRUPTED,
        ExitCode.TERMINATED,
    ),
)


main = partial(launch, JOB)

if __name__ == "__main__":
    leave(main())
