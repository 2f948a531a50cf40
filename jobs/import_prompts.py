"""`promptmill import`: JSON Lines, JSON, CSV, text, OpenAI's batch files or a dataset of the hub → one Parquet file.

The module cannot have the job's name: `import` is a keyword.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from jobs.console.launch import launch, show
from jobs.console.leave import leave
from jobs.options.arguments import Arguments
from jobs.options.words import is_value
from jobs.spec import JobSpec
from pipeline.errors import ConfigurationError, ExitCode
from pipeline.prompts.imports.config import ImportConfig
from pipeline.wording import hydra_value, override

if TYPE_CHECKING:
    from jobs.options.compose import Composed


def overrides(words: Sequence[str]) -> tuple[str, ...]:
    """Return a command line with the words that are no overrides as the paths that they are: what is read, then the target.

    Raises:
        ConfigurationError: If it is not clear what is to be written.
    """
    places = [word for word in words if is_value(word)]
    others = [word for word in words if word not in places]
    if not places:
        return tuple(others)
    has_output = any(word.startswith("output.path=") for word in others)
    has_source = any(word.startswith("source.path=") for word in others)
    if not has_output:
        if len(places) == 1 and not has_source:
            example = f"promptmill import {places[0]} prompts.parquet"
            raise ConfigurationError(f"import {places[0]}: into which file? {example}")
        others.append(override("output.path", places.pop()))
    if places and has_source:
        raise ConfigurationError(f"{places[0]} and source.path: both say what is read; give one of them")
    if len(places) == 1:
        others.append(override("source.path", places[0]))
    elif places:
        others.append(f"source.path=[{','.join(map(hydra_value, places))}]")
    return tuple(others)


def _compose(arguments: Arguments) -> list[Composed[ImportConfig]]:
    from jobs.options.compose import compose_runs  # late: Hydra is not needed for the help page

    return compose_runs("import", ImportConfig, replace(arguments, overrides=overrides(arguments.overrides)))


def run(config: ImportConfig, config_yaml: str) -> int:
    """Import, print what came of it, and return the exit code."""
    from pipeline.prompts.imports.ending import lines  # late: these bring in pyarrow
    from pipeline.prompts.imports.importing import import_prompts
    from pipeline.run.signals import signals_raise

    with signals_raise():
        made = import_prompts(config)
    return show("".join(f"{line}\n" for line in lines(made)))


JOB = JobSpec(
    name="import",
    summary="JSON Lines, JSON, CSV, text, OpenAI batches or a hub dataset → Parquet",
    schema=ImportConfig,
    run=run,
    compose=_compose,
    usage=("FILE|FOLDER|GLOB|URI ... OUT.parquet [KEY=VALUE ...]", "source.path=... output.path=... [KEY=VALUE ...]"),
    examples=(
        ("conversations as JSON Lines", "promptmill import conversations.jsonl prompts.parquet"),
        ("what cannot be read is left out and counted", "promptmill import logs.jsonl.gz prompts.parquet on_bad_line=skip"),
        ("CSV in another encoding", "promptmill import prompts.csv prompts.parquet source.encoding=cp1252"),
        ("requests of an OpenAI batch", "promptmill import batch.jsonl prompts.parquet format=openai_batch"),
        ("a folder of text files, a prompt each", "promptmill import letters/ letters.parquet format=files"),
        (
            "the first rows of a dataset of the hub",
            "promptmill import hf://datasets/openai/gsm8k gsm8k.parquet source.config=main limit=100",
        ),
    ),
    exit_codes=(
        ExitCode.COMPLETE, ExitCode.UNEXPECTED, ExitCode.REFUSED, ExitCode.STOPPED, ExitCode.INTERRUPTED, ExitCode.TERMINATED,
    ),
)  # fmt: skip


main = partial(launch, JOB)

if __name__ == "__main__":
    leave(main())
