"""Finishes a run: checks the parts, writes the dataset card, then the manifest; the summary and the exit code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ExitCode
from pipeline.output.card.card import CARD, dataset_card
from pipeline.output.card.samples import read_samples
from pipeline.output.card.seal import put_card
from pipeline.output.record.environment import environment
from pipeline.output.record.manifest import DamagedPart, Manifest, assemble, put_manifest
from pipeline.output.repair import write_down
from pipeline.planning.plan import Plan
from pipeline.run.foresee import remember_endings
from pipeline.run.show.monitor import Monitor
from pipeline.run.show.summary import RunSummary, summary
from pipeline.store.base import Store
from pipeline.wording import by_code
from pipeline.work.config import GenerateConfig
from pipeline.work.prepare import Prepared
from pipeline.work.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its exit code, the manifest of the complete output, and whether there was anything to do."""

    exit_code: int
    manifest: Manifest
    worked: bool = True


def finish(
    store: Store, plan: Plan, config: GenerateConfig, prepared: Prepared, recipe: Recipe, monitor: Monitor,
    facts: Mapping[str, object],
) -> Manifest:  # fmt: skip
    """Check that every part is there; write the card, then the manifest, whose existence means success.

    Args:
        store: The output folder.
        plan: What was to be done.
        config: The options of the run.
        prepared: The job, and where its model and input come from.
        recipe: What the job makes of a row.
        monitor: The reports of the shards.
        facts: What the replicas say about their machines.

    Raises:
        DamagedPart: If a part cannot be read; it is noted, and the next run makes it again.
        PromptmillError: If parts are missing.
    """
    try:
        manifest = assemble(store, plan, monitor.reports, monitor.timings(),
                            {**environment(), **facts, **prepared.provenance})  # fmt: skip
    except DamagedPart as error:
        write_down(store, [error.file])
        raise
    options = plan.fingerprint.get("score") or config.sampling.params().plain()
    card = dataset_card(
        manifest, plan, model=_shown(config.model.path), sampling=options, schema=prepared.job.schema,
        title=recipe.title, meanings=recipe.meanings, samples=read_samples(store, manifest.parts[0].file),
    )  # fmt: skip
    if (name := put_card(store, card)) != CARD:
        print(f"{CARD} in the output folder was not written by promptmill and stays as it is; the dataset card is {name}",
              file=sys.stderr)  # fmt: skip
    manifest = put_manifest(store, manifest)
    remember_endings(plan, config.sampling.params(), manifest.totals)
    return manifest


def summarise(store: Store, plan: Plan, config: GenerateConfig, manifest: Manifest) -> None:
    """Print what a finished run has made."""
    totals, timings = manifest.totals, manifest.timings
    summary(RunSummary(
        path=config.output.path, exit_code=exit_code(config, manifest), rows=totals.rows, rows_total=plan.rows,
        completions=totals.completions, prompt_tokens=totals.prompt_tokens,
        completion_tokens=totals.completion_tokens, tokens_per_second=timings.get("tokens_per_second") or None,
        wall_seconds=timings["wall_seconds"] or 0.0, errors=totals.errors,
        samples=read_samples(store, manifest.parts[0].file, 2), totals=totals, figures=manifest.figures,
    ))  # fmt: skip


def exit_code(config: GenerateConfig, manifest: Manifest) -> ExitCode:
    """Return the exit code of a complete output."""
    errors, rows = sum(manifest.totals.errors.values()), manifest.totals.completions
    return ExitCode.TOO_MANY_ERRORS if rows and errors / rows > config.max_error_rate else ExitCode.COMPLETE


def too_many_errors(config: GenerateConfig, manifest: Manifest) -> str:
    """Say why a complete output ends with an exit code other than 0; empty if the code is 0."""
    if not exit_code(config, manifest):
        return ""
    errors = manifest.totals.errors
    share = f"{sum(errors.values()):,} of {manifest.totals.completions:,} output rows"
    return (f". Exit code {int(ExitCode.TOO_MANY_ERRORS)}: {share} are errors ({by_code(errors)}), more than "
            f"max_error_rate={config.max_error_rate:g} allows")  # fmt: skip


def _shown(model: str) -> str:
    """Return a model's name for the public: a hub id, or the last part of a directory's path."""
    folder = Path(model).expanduser()
    return folder.name if folder.is_dir() else model
