"""A job made ready to run in this process: the model loaded, its rows at hand."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.base import BuiltEngine, Resources
from pipeline.engine.config import StatsConfig
from pipeline.engine.guarded import GuardedEngine
from pipeline.engine.registry import open_backend
from pipeline.prompts.rows import RowBuilder
from pipeline.prompts.shard import ShardRows
from pipeline.types import Request, SamplingParams, Tokenizer
from pipeline.work.job import Job
from pipeline.work.recipe import Recipe, open_recipe


@dataclass(frozen=True, slots=True)
class Opened:
    """What turns rows of a job into completions.

    Attributes:
        recipe: What is asked of the engine for a row.
        rows: Reads the rows of a task.
        engine: Answers requests.
        built: The engine as its backend made it, with the tokenizer.
    """

    recipe: Recipe
    rows: ShardRows
    engine: GuardedEngine
    built: BuiltEngine


def open_job(job: Job, resources: Resources, stats: StatsConfig | None = None) -> Opened:
    """Load the model of a job.

    Args:
        job: The job.
        resources: What the engine may take.
        stats: The statistics to measure; None: the job's.

    Raises:
        PromptmillError: If the model or the input cannot be used here.
    """
    built = open_backend(job.model, job.engine).build(stats or job.stats, resources)
    engine = GuardedEngine(built.engine, built.renew, _probe(job.sampling, built.tokenizer), built.lost)
    builder = RowBuilder(
        job.source, job.sampling, built.tokenizer, built.max_model_len, job.plan.files, check=built.check
    )
    rows = ShardRows(job.source, builder, job.plan.files, job.columns)
    return Opened(open_recipe(job.plan.fingerprint), rows, engine, built)


def _probe(sampling: SamplingParams, tokenizer: Tokenizer) -> Request:
    """Return a harmless request, which any working engine serves."""
    token = next((t for t in (tokenizer.bos_token_id,) if t is not None and 0 <= t < tokenizer.vocab_size), 0)
    return Request("", 0, (token,), sampling)
