"""Opens a job in the process that runs it: loads its model, and sets up the reader of its rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.engine.base import BuiltEngine, Resources
from pipeline.engine.config import StatsConfig
from pipeline.engine.guarded import GuardedEngine
from pipeline.engine.registry import open_backend
from pipeline.prompts.rows import RowBuilder
from pipeline.prompts.scored.builder import ScoredBuilder
from pipeline.prompts.scored.config import ScoreOptions, ScoreSource
from pipeline.prompts.scored.corpus import CorpusRows
from pipeline.prompts.shard import ShardRows
from pipeline.types import Request, SamplingParams, Tokenizer
from pipeline.work.job import Job
from pipeline.work.recipe import Recipe, open_recipe


@dataclass(frozen=True, slots=True)
class Opened:
    """The parts that turn a job's rows into completions.

    Attributes:
        recipe: Makes the requests of a row, and the table of a shard.
        rows: Reads the rows of a task.
        engine: Turns requests into completions, and isolates those that make it raise.
        built: The engine as its backend made it, with the tokenizer.
    """

    recipe: Recipe
    rows: ShardRows | CorpusRows
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
    return Opened(open_recipe(job.plan.fingerprint), _rows(job, built), engine, built)


def _rows(job: Job, built: BuiltEngine) -> ShardRows | CorpusRows:
    """Return what reads the rows of the job."""
    source, plan, tokenizer = job.source, job.plan, built.tokenizer
    if not isinstance(source, ScoreSource):
        builder = RowBuilder(source, job.sampling, tokenizer, built.max_model_len, plan.files, check=built.check)
        return ShardRows(source, builder, plan.files, job.columns)
    options = ScoreOptions(**plan.fingerprint["score"])
    scored = ScoredBuilder(source, options, job.sampling, tokenizer, built.max_model_len, plan.files)
    rows = ShardRows(source, scored, plan.files, job.columns)
    if not options.concatenate:
        return rows
    whole = replace(plan, rows_per_shard=max(1, plan.rows)).shard(0)
    return CorpusRows(rows, whole, plan.files, options, tokenizer, source.add_special_tokens)


def _probe(sampling: SamplingParams, tokenizer: Tokenizer) -> Request:
    """Return a harmless request, which any working engine serves."""
    token = next((t for t in (tokenizer.bos_token_id,) if t is not None and 0 <= t < tokenizer.vocab_size), 0)
    return Request("", 0, (token,), sampling)
