"""Turns a configuration into a job, and refuses here what can be refused before a replica starts.

It starts no Ray and writes nothing.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.engine.base import Backend, Identity
from pipeline.engine.config import DTYPES
from pipeline.engine.model.chat import asks_for_the_day
from pipeline.engine.registry import open_backend
from pipeline.errors import ConfigurationError, InputRefused, ModelRefused, PromptmillError, Refused
from pipeline.output.scores.schema import VERSION
from pipeline.planning.pace import BYTES_A_TOKEN, CORE_SPEED, GPU_SPEED, Effort
from pipeline.planning.plan import Plan, make_plan
from pipeline.prompts.config import is_a_day
from pipeline.prompts.files.columns import used_columns
from pipeline.prompts.files.ids import check_ids
from pipeline.prompts.files.listing import Source, open_source
from pipeline.prompts.files.reader import RowReader
from pipeline.prompts.rows import kept_columns
from pipeline.wording import one_line, without_secrets
from pipeline.work.checks import (
    check_apart,
    check_keys,
    check_scores,
    check_statistics,
    check_structured,
    check_vocabulary,
)
from pipeline.work.config import GenerateConfig
from pipeline.work.doubts import doubts
from pipeline.work.job import Job
from pipeline.work.recipe import open_recipe
from pipeline.work.score.config import ScoreConfig

SCHEMA_VERSION = 2
"""Increased when the meaning of an output column or of an option changes, so that old and new rows never mix."""


@dataclass(frozen=True)
class Prepared:
    """A checked job, and what is known about it before it starts.

    Attributes:
        job: The job for the workers; the output folder may hold an older layout of the same plan.
        effort: Estimated cost of a row.
        weight_bytes: Size of the model's weights.
        doubts: One line per option that is allowed and probably a mistake.
        statistics: The names of those that the engine can measure.
        notes: Lines about what was chosen and is not obvious.
        provenance: Name → where the model comes from.
    """

    job: Job
    effort: Effort
    weight_bytes: int
    doubts: tuple[str, ...] = ()
    statistics: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)


def prepare(
    config: GenerateConfig, recipe: str = "generate", begun: Mapping[str, Any] | None = None, *, fresh: bool = False
) -> Prepared:
    """Check the input and the model, and plan.

    Args:
        config: The configuration.
        recipe: What the job makes of a row: a name in `RECIPES`.
        begun: The fingerprint of the plan that the output already has, if any.
        fresh: Read every file of the model, instead of taking a digest that an earlier job found.

    Raises:
        Refused: The message is one line about what is wrong and what to do.
    """
    check_structured(config)
    with refusing(InputRefused, f"source.path={without_secrets(config.source.path)}"):
        source = open_source(config.source)
    check_apart(config.source.path, config.output.path)
    empty = RowReader(source.filesystem, (), used_columns(config.source), source.schema).read(())
    schema = open_recipe(_asked(config, recipe)).schema(kept_columns(empty, config.source).schema)
    check_keys(config.output.path, schema.names)
    with refusing(InputRefused, f"source.path={without_secrets(config.source.path)}"):
        check_ids(source, config.source)
    config = _with_dtype(config, begun)
    backend = open_backend(config.model, config.engine)
    with refusing(ModelRefused, f"model.path={config.model.path}"):
        identity = backend.identify(gpus=config.cluster.gpus_per_replica, fresh=fresh)
    config = _with_chat(config, backend, identity, begun)
    check_vocabulary(config, identity.vocab_size)
    check_statistics(config, identity)
    check_scores(config, identity, backend)
    try:
        ignored = () if isinstance(config, ScoreConfig) else backend.check(config.sampling.params())
    except ValueError as error:
        raise ConfigurationError(f"sampling.{error}") from error
    effort = _effort(config, identity, source)
    plan = make_plan(
        source.files,
        {**_asked(config, recipe), **_found(config, identity)},
        rows_per_shard=config.output.rows_per_shard or effort.rows_per_shard,
        limit=config.source.limit,
    )
    doubtful = (*doubts(config, identity, source), *identity.doubts, *ignored)
    return Prepared(
        _job(config, plan, source, schema, identity), effort, identity.weight_bytes, doubtful, identity.statistics,
        identity.notes, identity.provenance,
    )  # fmt: skip


def _job(config: GenerateConfig, plan: Plan, source: Source, schema: Any, identity: Identity) -> Job:
    """Make the job for the workers, with absolute paths."""
    model = replace(config.model, dtype=identity.dtype)
    for key in ("path", "tokenizer", "adapter"):
        value = getattr(model, key)
        if value is not None and Path(value).expanduser().is_dir():
            setattr(model, key, _absolute(value))
    return Job(
        plan, source.schema, schema, model, config.engine, config.sampling.params(), config.stats,
        replace(config.source, path=_absolute(config.source.path)),
        replace(config.output, path=_absolute(config.output.path)),
        "cuda" if config.cluster.gpus_per_replica > 0 else "cpu",
    )  # fmt: skip


def _effort(config: GenerateConfig, identity: Identity, source: Source) -> Effort:
    """Estimate the cost of a row from sizes that are known before a model is loaded."""
    longest, sampling, cluster = identity.max_model_len, config.sampling, config.cluster
    size, rows = sum(f.size for f in source.files), sum(f.rows for f in source.files)
    prompt = min(longest - 1, size / BYTES_A_TOKEN / max(1, rows))
    if isinstance(config, ScoreConfig):
        prompt = size / BYTES_A_TOKEN / max(1, rows) * longest / (config.score.stride or max(1, longest // 2))
    speed = CORE_SPEED * cluster.likely_threads()
    if cluster.gpus_per_replica > 0:
        speed = GPU_SPEED * cluster.gpus_per_replica
    return Effort(identity.parameters, prompt, sampling.n * min(longest, sampling.max_tokens), speed)


@contextlib.contextmanager
def refusing(refusal: type[Refused], what: str) -> Iterator[None]:
    """Turn any unexpected exception of a library into a refusal: fsspec and the hub raise many kinds."""
    try:
        yield
    except (PromptmillError, MemoryError):
        raise
    except Exception as error:
        raise refusal(f"{what}: {type(error).__name__}: {one_line(error)}") from error


def _with_dtype(config: GenerateConfig, begun: Mapping[str, Any] | None) -> GenerateConfig:
    """Let `model.dtype=auto` on a GPU be what an output was begun with: what it stands for was float32 in older versions."""
    model = (begun or {}).get("model")
    dtype = model.get("dtype") if isinstance(model, Mapping) else None
    if config.model.dtype != "auto" or not config.cluster.gpus_per_replica or dtype not in DTYPES:
        return config
    return replace(config, model=replace(config.model, dtype=dtype))


def _with_chat(
    config: GenerateConfig, backend: Backend, identity: Identity, begun: Mapping[str, Any] | None
) -> GenerateConfig:
    """Check that conversations can be rendered, and fix the date that the chat template gets."""
    source = config.source
    if not source.is_chat:
        return config
    template = identity.chat_template if source.chat_template is None else source.chat_template
    key = "messages_column" if source.messages_column is not None else "chat"
    if template is None:
        raise ModelRefused(
            f"model.path={config.model.path}: has no chat template, which source.{key} needs; give one with "
            "source.chat_template=FILE, name the model's tuned version, or prompt it with source.template"
        )
    if source.chat_date is None and asks_for_the_day(template):
        source = replace(source, chat_date=_day_of(begun) or datetime.date.today().isoformat())
    try:
        backend.check_chat(source.chat_format())
    except ValueError as error:
        whose = "the model's chat template" if source.chat_template is None else "source.chat_template"
        raise ConfigurationError(f"{whose}: {error}") from error
    return replace(config, source=source)


def _day_of(begun: Mapping[str, Any] | None) -> str | None:
    """Return the day that an output's plan tells chat templates; None if it tells none."""
    source = (begun or {}).get("source")
    day = source.get("chat_date") if isinstance(source, Mapping) else None
    return day if isinstance(day, str) and is_a_day(day) else None


def _asked(config: GenerateConfig, recipe: str) -> dict[str, Any]:
    """Return the options that decide the output's bytes: no paths, as the files' content counts instead.

    `on_corrupt` is none of them: an output that `error` completes is the same with `skip`, and one that a damaged page stopped
    can be resumed with it.
    """
    source = asdict(config.source)
    del source["path"], source["template_file"], source["on_corrupt"]
    how: dict[str, Any] = {"sampling": config.sampling.params().plain()}
    if isinstance(config, ScoreConfig):
        how = {"score": asdict(config.score), "scores": VERSION}
    return {
        "recipe": recipe,
        "schema": SCHEMA_VERSION,
        **how,
        "stats": asdict(config.stats),
        "source": source,
        "output": {"include_prompt": config.output.include_prompt, "messages": config.output.messages},
    }


def _found(config: GenerateConfig, identity: Identity) -> dict[str, Any]:
    """Return what else decides the output's bytes: the model, and the engine's settings that affect its results."""
    return {
        "model": {"content": identity.content, **identity.model},
        "engine": {"name": config.engine.name, "max_model_len": identity.max_model_len, **identity.engine},
    }


def _absolute(path: str) -> str:
    """Return a local path as an absolute one; a URI unchanged."""
    return path if "://" in path else str(Path(path).expanduser().absolute())
