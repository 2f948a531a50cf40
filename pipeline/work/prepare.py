"""Turns a configuration into a job, and refuses here what can be refused before a replica starts.

It starts no Ray and writes nothing.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from pipeline.engine.base import Backend, Identity
from pipeline.engine.config import DTYPES
from pipeline.engine.model.chat import asks_for_the_day
from pipeline.engine.registry import open_backend
from pipeline.engine.rules.grammar_guard import check_in_time
from pipeline.errors import ConfigurationError, InputRefused, ModelRefused, PlanRefused, PromptmillError, Refused
from pipeline.planning.pace import BYTES_A_TOKEN, CORE_SPEED, GPU_SPEED, Effort
from pipeline.planning.plan import Plan, make_plan
from pipeline.prompts.config import is_a_day
from pipeline.prompts.files.columns import used_columns
from pipeline.prompts.files.ids import check_ids
from pipeline.prompts.files.listing import Source, open_source
from pipeline.prompts.files.reader import RowReader
from pipeline.prompts.rows import kept_columns
from pipeline.wording import one_line, without_secrets
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
        doubts: One line per option that is legal and surely a mistake.
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
    _check_structured(config)
    with refusing(InputRefused, f"source.path={without_secrets(config.source.path)}"):
        source = open_source(config.source)
    _check_apart(config.source.path, config.output.path)
    empty = RowReader(source.filesystem, (), used_columns(config.source), source.schema).read(())
    schema = open_recipe(_asked(config, recipe)).schema(kept_columns(empty, config.source).schema)
    _check_keys(config.output.path, schema.names)
    with refusing(InputRefused, f"source.path={without_secrets(config.source.path)}"):
        check_ids(source, config.source)
    config = _with_dtype(config, begun)
    backend = open_backend(config.model, config.engine)
    with refusing(ModelRefused, f"model.path={config.model.path}"):
        identity = backend.identify(gpus=config.cluster.gpus_per_replica, fresh=fresh)
    config = _with_chat(config, backend, identity, begun)
    _check_vocabulary(config, identity.vocab_size)
    _check_statistics(config, identity)
    _check_scores(config, identity)
    try:
        undone = () if isinstance(config, ScoreConfig) else backend.check(config.sampling.params())
    except ValueError as error:
        raise ConfigurationError(f"sampling.{error}") from error
    if not source.files:
        raise InputRefused(f"source.path={config.source.path}: no Parquet files")
    effort = _effort(config, identity, source)
    plan = make_plan(
        source.files,
        {**_asked(config, recipe), **_found(config, identity)},
        rows_per_shard=config.output.rows_per_shard or effort.rows_per_shard,
        limit=config.source.limit,
    )
    doubtful = (*doubts(config, identity), *identity.doubts, *undone)
    return Prepared(
        _job(config, plan, source, schema, identity), effort, identity.weight_bytes, doubtful, identity.statistics,
        identity.notes,
        identity.provenance,
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


def _check_structured(config: GenerateConfig) -> None:
    """Refuse a regex, choice or JSON Schema that llguidance cannot follow."""
    try:
        check_in_time(config.sampling.params())
    except ValueError as error:
        name, _, why = str(error).partition(": ")
        value = f"={one_line(config.sampling.regex, 60)}" if name == "regex" and config.sampling.regex else ""
        raise ConfigurationError(f"sampling.{name}{value}: {why}") from error


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


def _check_vocabulary(config: GenerateConfig, size: int | None) -> None:
    """Refuse options that name tokens which the model does not have."""
    if size is None:
        return
    beyond = config.sampling.params().beyond(size)
    if beyond is not None:
        raise ConfigurationError(
            f"sampling.{beyond[0]}: {beyond[1]} is no token of the model, which has ids 0 to {size - 1}"
        )
    if config.stats.top_logprobs > size:
        raise ConfigurationError(f"stats.top_logprobs={config.stats.top_logprobs}: the model has {size} tokens")


def _check_statistics(config: GenerateConfig, identity: Identity) -> None:
    """Refuse statistics that the engine cannot measure."""
    name, stats = config.engine.name, config.stats
    if missing := [column for column in stats.columns if column not in identity.statistics]:
        can = ", ".join(sorted(identity.statistics)) or "none"
        raise ConfigurationError(f"stats.columns: engine={name} cannot measure {', '.join(missing)}; it can {can}")
    if not identity.lists and (stats.top_logprobs or stats.prompt_logprobs):
        key = "top_logprobs" if stats.top_logprobs else "prompt_logprobs"
        raise ConfigurationError(f"stats.{key}: engine={name} cannot give these")


def _check_scores(config: GenerateConfig, identity: Identity) -> None:
    """Refuse to score with an engine that cannot, or in windows that leave tokens out."""
    if not isinstance(config, ScoreConfig):
        return
    if not identity.scores:
        raise ConfigurationError(f"engine={config.engine.name}: cannot score given texts")
    stride, context = config.score.stride, identity.max_model_len
    if stride is not None and stride > context:
        raise ConfigurationError(f"score.stride={stride}: must be at most the context, which has {context} tokens")


def _asked(config: GenerateConfig, recipe: str) -> dict[str, Any]:
    """Return the options that decide the output's bytes: no paths, as the files' content counts instead."""
    source = asdict(config.source)
    del source["path"], source["template_file"]
    how: dict[str, Any] = {"sampling": config.sampling.params().plain()}
    if isinstance(config, ScoreConfig):
        how = {"score": asdict(config.score)}
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


def _check_apart(source: str, output: str) -> None:
    """Refuse an output folder whose parts the next run would list as input."""
    given, made = _place(source), _place(output)
    if made == given:
        raise PlanRefused(f"output.path={output}: is the input's own folder; choose another")
    if made.is_relative_to(given):
        raise PlanRefused(
            f"output.path={output}: is inside source.path, so the next run would read its parts as prompts; choose another"
        )


def _check_keys(output: str, columns: Sequence[str]) -> None:
    """Refuse a folder `text=…` in the output's path: DuckDB and others would read its value as the column."""
    names = {name.casefold() for name in columns}
    for folder in _place(output).parts:
        key, equals, _ = folder.partition("=")
        if equals and key.casefold() in names:
            raise PlanRefused(
                f"output.path={output}: readers take the folder {folder!r} for the column {key!r}, which the output has; "
                "choose another"
            )


def _absolute(path: str) -> str:
    """Return a local path as an absolute one; a URI unchanged."""
    return path if "://" in path else str(Path(path).expanduser().absolute())


def _place(path: str) -> PurePath:
    """Return a path with links and `..` resolved; a remote one unchanged."""
    path = path.removeprefix("file://")
    return PurePath(path) if "://" in path else Path(path).expanduser().resolve()
