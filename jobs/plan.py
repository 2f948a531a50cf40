"""`promptmill plan`: what a job of `generate` or `score` would take, without starting it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from jobs.console.launch import launch, show
from jobs.console.leave import leave
from jobs.spec import JobSpec
from pipeline.errors import ExitCode
from pipeline.run.config import PlanConfig, PlanScoreConfig

if TYPE_CHECKING:
    from jobs.options.arguments import Arguments
    from jobs.options.compose import Composed


def run(config: PlanConfig | PlanScoreConfig, config_yaml: str) -> int:
    """Print what the job takes, and return the exit code."""
    from pipeline.stages import Stage

    with Stage("starting"):
        from pipeline.run.foresee import foresee  # late: it brings in pyarrow
        from pipeline.run.show.plan import as_json, lines

    found, price = foresee(config), config.price_per_hour
    return show((as_json(found, price) if config.json else "\n".join(lines(found, price))) + "\n")


def _compose(arguments: Arguments) -> list[Composed[Any]]:
    """Compose the options of the job that is planned."""
    from jobs.options.compose import compose_runs  # late: the help page needs no Hydra

    job = [line.partition("=")[2] for line in arguments.overrides if line.partition("=")[0] == "job"]
    if job[-1:] == ["score"]:
        return compose_runs("plan_score", PlanScoreConfig, arguments)
    return compose_runs("plan", PlanConfig, arguments)


JOB = JobSpec(
    name="plan",
    summary="what generate or score would take: rows, memory, time, disk, cost",
    schema=PlanConfig,
    compose=_compose,
    run=run,
    examples=(
        ("before a long run", "promptmill plan experiment=demo"),
        ("what it costs at 0.40 an hour", "promptmill plan experiment=demo price_per_hour=0.4"),
        (
            "a job that scores",
            "promptmill plan job=score model=gpt2 source.prompt_column=text source.path=texts.parquet "
            "output.path=outputs/scores",
        ),
        ("as JSON", "promptmill plan experiment=demo json=true"),
    ),
    exit_codes=(
        ExitCode.COMPLETE, ExitCode.UNEXPECTED, ExitCode.REFUSED, ExitCode.STOPPED, ExitCode.INTERRUPTED, ExitCode.TERMINATED,
    ),
)  # fmt: skip


main = partial(launch, JOB)

if __name__ == "__main__":
    leave(main())
