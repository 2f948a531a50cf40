"""Scores the texts of a run anew in other ways, to say which of them gives the figure that was expected."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pipeline.errors import Refused
from pipeline.output.record.manifest import Manifest
from pipeline.run.driver import run_job
from pipeline.work.score.benchmark import BenchmarkConfig, Compared
from pipeline.work.score.config import ScoreConfig
from pipeline.work.score.explain import LAST, UNIT, Found, explained, found_under, units, variants


def explain(
    config: ScoreConfig, done: Manifest, context: int, off: Sequence[Compared], last: Mapping[str, float],
    as_yaml: Callable[[ScoreConfig], str],
) -> list[str]:  # fmt: skip
    """Return the lines that say under what a figure is as expected.

    Each variant is a run of its own beside the output, which can be stopped and resumed like any other.

    Args:
        config: The run.
        done: Its manifest.
        context: Tokens that the model reads at once.
        off: The figures that are off.
        last: The figures of the texts' last tokens alone; empty where whole texts are scored.
        as_yaml: A configuration as text, to be kept with its output.

    Raises:
        PromptmillError: If a variant is stopped. One that is refused is reported and skipped.
    """
    same = {figure.name for figure in off}
    own = units(done.totals.sums, done.figures)
    found = [one for one in found_under(UNIT, "this run", own, off) if one.good or one.name in same]
    found += found_under(LAST, "last token", last, off) if last else []
    place = config.output.path.rstrip("/") + "-explain"
    for number, variant in enumerate(variants(config, context)):
        name = re.sub(r"[^a-z0-9]+", "-", f"{variant.axis} {variant.what}".lower()).strip("-")[:60]
        output = replace(config.output, path=f"{place}/{number:02d}-{name}")
        run = replace(
            variant.config, output=output, expect={}, benchmark=BenchmarkConfig(), explain=False, explain_sources=[],
            results=None,
        )  # fmt: skip
        try:
            made = run_job(run, config_yaml=as_yaml(run), recipe="score").manifest
        except Refused as error:
            print(f"{variant.axis}, {variant.what}: cannot be tried: {error}", file=sys.stderr)
            continue
        found += _of(variant.axis, variant.what, made, off)
    return explained(found)


def _of(axis: str, what: str, made: Manifest, off: Sequence[Compared]) -> list[Found]:
    return found_under(axis, what, units(made.totals.sums, made.figures), off)
