"""`promptmill plan`: what a job of `generate` would take, without starting it."""

from __future__ import annotations

from functools import partial

from jobs.console.launch import launch
from jobs.console.leave import leave
from jobs.spec import JobSpec
from pipeline.errors import ExitCode
from pipeline.run.config import PlanConfig


def run(config: PlanConfig, config_yaml: str) -> int:
    """Print what the job takes, and return the exit code."""
    from pipeline.stages import Stage

    with Stage("starting"):
        from pipeline.run.foresee import foresee  # late: it brings in pyarrow
        from pipeline.run.show.plan import as_json, lines

    found, price = foresee(config), config.price_per_hour
    print(as_json(found, price) if config.json else "\n".join(lines(found, price)), flush=True)
    return ExitCode.COMPLETE


JOB = JobSpec(
    name="plan",
    summary="what generate would take with the same options: rows, memory, time, disk, cost",
    schema=PlanConfig,
    run=run,
    examples=(
        ("before a long night", "promptmill plan experiment=demo"),
        ("what it costs at 0.40 an hour", "promptmill plan experiment=demo price_per_hour=0.4"),
        ("as JSON", "promptmill plan experiment=demo json=true"),
    ),
    exit_codes=(ExitCode.COMPLETE, ExitCode.UNEXPECTED, ExitCode.REFUSED, ExitCode.INTERRUPTED, ExitCode.TERMINATED),
)


main = partial(launch, JOB)

if __name__ == "__main__":
    leave(main())
