"""`promptmill score`: texts in Parquet → log-probabilities per token, perplexity and accuracy in Parquet."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING

from jobs.console.launch import launch
from jobs.console.leave import leave
from jobs.generate import make_output
from jobs.options.keys import keys
from jobs.spec import JobSpec
from pipeline.errors import ExitCode
from pipeline.wording import uninterpolated
from pipeline.work.score.benchmark import compare, table
from pipeline.work.score.config import ScoreConfig

if TYPE_CHECKING:
    from pipeline.run.finish import Outcome
    from pipeline.work.score.benchmark import Compared


def run(config: ScoreConfig, config_yaml: str) -> int:
    """Score, and return the exit code."""
    if config.results is not None:
        from pipeline.work.score.results import check_results

        check_results(config.results)
    done = make_output(config, config_yaml, "score")
    if config.results is not None:
        from pipeline.work.score.results import lm_eval_results, write_results

        write_results(config.results, lm_eval_results(config, done.manifest))
    return _compared(config, config_yaml, done) or done.exit_code


def _compared(config: ScoreConfig, config_yaml: str, done: Outcome) -> int:
    """Print the figures beside what is expected of them; return exit code 6 if one is off."""
    expected = config.expect or config.benchmark.expected_of(config.model.path)
    found = compare(done.manifest.figures, done.manifest.totals.sums, expected)
    benchmark, model = config.benchmark, PurePath(config.model.path).name
    if benchmark.name and not found:
        known = ", ".join(benchmark.published)
        other = f"; there are those of {known}" if known else ""
        print(f"  {benchmark.name}: no figure of {model} is known to compare with{other}", file=sys.stderr)
    if found and not config.expect:
        status = {"reproduced": "reproduced by public scripts", "paper": "in a paper only"}
        said = status.get(benchmark.status or "", "published")
        print(f"  {benchmark.name}: the expected figures are {said}: {'; '.join(benchmark.sources)}", file=sys.stderr)
    for line in table(found) if found else ():
        print(f"  {line}", file=sys.stderr)
    off = [figure for figure in found if not figure.good]
    if off and config.explain:
        for line in _explained(config, config_yaml, done, off):
            print(f"  {line}", file=sys.stderr)
    return ExitCode.OFF if off else ExitCode.COMPLETE


def _explained(config: ScoreConfig, config_yaml: str, done: Outcome, off: list[Compared]) -> list[str]:
    from pipeline.inspect.output import open_output
    from pipeline.run.explain import explain
    from pipeline.work.score.explain import last_tokens

    output = open_output(config.output.path)
    context = int(output.plan().fingerprint["engine"]["max_model_len"])
    one = config.source.paired and not config.source.choice  # completion per row: no figure is of endings' last tokens
    last = last_tokens(output.rows(["token_logprobs", "token_ranks"])) if one else {}
    return explain(config, done.manifest, context, off, last, lambda run: text_of(run, config, config_yaml))


def text_of(run: ScoreConfig, first: ScoreConfig, first_yaml: str) -> str:
    """Return a variant of a run as text: that of the run, interpolations unresolved, with the options that are others.

    Args:
        run: The variant.
        first: The run.
        first_yaml: Its composed configuration.
    """
    from omegaconf import OmegaConf

    tree = OmegaConf.create(first_yaml)
    for name in keys(ScoreConfig):
        section, _, option = name.rpartition(".")
        value, before = (getattr(getattr(config, section) if section else config, option) for config in (run, first))
        if value != before:
            OmegaConf.update(tree, name, uninterpolated(value) if isinstance(value, str) else value, merge=False)
    return OmegaConf.to_yaml(tree, resolve=False)


JOB = JobSpec(
    name="score",
    summary="texts in Parquet → log-probabilities per token, perplexity and accuracy in Parquet",
    schema=ScoreConfig,
    run=run,
    examples=(
        (
            "perplexity of texts",
            "promptmill score model=gpt2 source.prompt_column=text source.path=texts.parquet output.path=outputs/scores",
        ),
        (
            "one long text out of many rows, in windows half a context apart",
            "promptmill score score.concatenate=true score.stride=512 source.path=lines.parquet output.path=outputs/corpus",
        ),
        (
            "only what follows a prompt",
            "promptmill score source.completion_column=answer source.path=pairs.parquet output.path=outputs/pairs",
        ),
        (
            "multiple choice",
            """promptmill score source.endings_column=choices source.answer_column=label 'score.delimiter=" "' """
            "source.path=questions.parquet output.path=outputs/choices",
        ),
        (
            "is this still the model that it was?",
            "promptmill score expect={perplexity:29.94} source.path=texts.parquet output.path=outputs/again",
        ),
    ),
    exit_codes=tuple(code for code in ExitCode if code is not ExitCode.DAMAGED),
)


main = partial(launch, JOB)

if __name__ == "__main__":
    leave(main())
