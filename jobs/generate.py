"""`promptmill generate`: prompts in Parquet → generations and per-token statistics in Parquet."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from jobs.console.launch import launch
from jobs.console.leave import leave
from jobs.spec import JobSpec
from pipeline import __version__
from pipeline.errors import ExitCode
from pipeline.wording import without_secrets
from pipeline.work.config import GenerateConfig

if TYPE_CHECKING:
    from pipeline.run.finish import Outcome


def run(config: GenerateConfig, config_yaml: str) -> int:
    """Generate, or show a preview, and return the exit code."""
    if config.preview is not None:
        return _preview(config)
    return make_output(config, config_yaml, "generate").exit_code


def make_output(config: GenerateConfig, config_yaml: str, recipe: str) -> Outcome:
    """Run a job to its manifest and its report; see `pipeline.run.driver.run_job`."""
    from pipeline.stages import Opening, Stage

    paths = f"{without_secrets(config.source.path)} → {without_secrets(config.output.path)}"
    with Opening(f"promptmill {__version__}: {paths}") as opening:
        with Stage("starting"):
            if config.cluster.name == "inline":
                _preload()
            from pipeline.run.driver import run_job  # imported late: it loads Ray and pyarrow
        outcome = run_job(config, config_yaml=config_yaml, recipe=recipe, accepted=opening.accepted)
    if config.output.report:
        from jobs.report import report_of_a_run  # late: it brings in what reads outputs

        report_of_a_run(config.output.path, worked=outcome.worked)
    return outcome


def _preload() -> None:
    """Load torch's libraries while an inline run makes its plan; before them Arrow's, which would wait for them."""
    import pipeline.output.folder  # noqa: F401  # brings in Arrow
    from pipeline.engine.libraries import preload

    preload()


def _preview(config: GenerateConfig) -> int:
    from pipeline.stages import Stage

    with Stage("starting"):
        from pipeline.run.preview import preview  # late: it brings in pyarrow

    preview(config)
    return ExitCode.COMPLETE


JOB = JobSpec(
    name="generate",
    summary="prompts in Parquet → generations and per-token statistics in Parquet",
    schema=GenerateConfig,
    run=run,
    examples=(
        ("the embedded demo", "promptmill generate experiment=demo"),
        (
            "GPT-2 on prompts of your own",
            "promptmill generate model=gpt2 source.path=prompts.parquet output.path=outputs/first",
        ),
        (
            "a template over the columns",
            """promptmill generate 'source.template="Write about {{ topic }}."' """
            "source.path=topics.parquet output.path=outputs/topics",
        ),
        ("stop strings", r"""promptmill generate 'sampling.stop=["\n\n",END]' experiment=demo"""),
        (
            "two temperatures, a folder each",
            "promptmill generate -m sampling.temperature=0.7,1.0 experiment=demo output.path=outputs/sweep",
        ),
        ("eight rows, before a long run", "promptmill generate experiment=demo preview=8"),
        ("what would be run", "promptmill generate experiment=demo --cfg job"),
    ),
)


main = partial(launch, JOB)

if __name__ == "__main__":
    leave(main())
