"""From a configuration to a job: everything that can be refused is refused here, before a replica starts.

It does not know Ray or dispatch, and writes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from pipeline.engine.model.checkpoint import Checkpoint, model_len, resolve
from pipeline.engine.model.ignored import ignored
from pipeline.engine.model.tokenizer import load_tokenizer
from pipeline.engine.rules.grammar_guard import check_in_time
from pipeline.engine.rules.structured import Grammars
from pipeline.errors import ConfigurationError, InputRefused, ModelRefused, PlanRefused, PromptmillError, Refused
from pipeline.output.schema import output_schema
from pipeline.planning.pace import BYTES_A_TOKEN, CORE_SPEED, GPU_SPEED, Effort
from pipeline.planning.plan import Plan, make_plan
from pipeline.prompts.files.columns import used_columns
from pipeline.prompts.files.ids import check_ids
from pipeline.prompts.files.listing import Source, open_source
from pipeline.prompts.files.reader import RowReader
from pipeline.prompts.rows import kept_columns
from pipeline.wording import one_line, without_secrets
from pipeline.work.config import GenerateConfig
from pipeline.work.doubts import doubts
from pipeline.work.job import Job

SCHEMA_VERSION = 2
"""Raised when the meaning of an output column or of an option changes, so that old and new rows never mix."""


@dataclass(frozen=True)
class Prepared:
    """What a run works from.

    Attributes:
        plan: As it follows from the configuration; the output folder may hold an older layout of the same plan.
        source: The input.
        checkpoint: The model's files on this machine.
        effort: What a row takes, by an estimate.
        output_schema: Arrow schema of the parts.
        doubts: A line for each option that is legal and surely a mistake.
    """

    plan: Plan
    source: Source
    checkpoint: Checkpoint
    effort: Effort
    output_schema: Any
    doubts: tuple[str, ...] = ()

    def job(self, config: GenerateConfig, plan: Plan) -> Job:
        """The job for the workers, under the plan that the output folder holds; its paths mean the same in any folder."""
        model = replace(config.model, dtype=_dtype(config, self.checkpoint))
        for key in ("path", "tokenizer", "adapter"):
            value = getattr(model, key)
            if value is not None and Path(value).expanduser().is_dir():
                setattr(model, key, _absolute(value))
        return Job(
            plan,
            self.source.schema,
            model,
            config.engine,
            config.sampling,
            config.stats,
            replace(config.source, path=_absolute(config.source.path)),
            replace(config.output, path=_absolute(config.output.path)),
            "cuda" if config.cluster.gpus_per_replica > 0 else "cpu",
        )

    @property
    def weight_bytes(self) -> int:
        """Size of the model's weight files."""
        return _weight_bytes(self.checkpoint)


def prepare(config: GenerateConfig) -> Prepared:
    """Check the input and the model, and plan.

    Raises:
        Refused: With one line about what is wrong and what to do.
    """
    _check_structured(config)
    with refusing(InputRefused, f"source.path={without_secrets(config.source.path)}"):
        source = open_source(config.source)
    _check_apart(config.source.path, config.output.path)
    empty = RowReader(source.filesystem, (), used_columns(config.source), source.schema).read(())
    schema = output_schema(
        kept_columns(empty, config.source).schema, statistics=config.stats.columns, top_logprobs=config.stats.top_logprobs,
        prompt_logprobs=config.stats.prompt_logprobs, include_prompt=config.output.include_prompt,
    )  # fmt: skip
    _check_keys(config.output.path, schema.names)
    with refusing(InputRefused, f"source.path={without_secrets(config.source.path)}"):
        check_ids(source, config.source)
    with refusing(ModelRefused, f"model.path={config.model.path}"):
        checkpoint = resolve(config.model)
    _check_vocabulary(config, checkpoint.vocab_size)
    _check_tokenizer(config, checkpoint)
    if not source.files:
        raise InputRefused(f"source.path={config.source.path}: no Parquet files")
    effort = _effort(config, checkpoint, source)
    plan = make_plan(
        source.files,
        _options(config, checkpoint),
        rows_per_shard=config.output.rows_per_shard or effort.rows_per_shard,
        limit=config.source.limit,
    )
    found = (*doubts(config, model_len(checkpoint, config.engine)), *ignored(checkpoint, config.sampling))
    return Prepared(plan, source, checkpoint, effort, schema, found)


def _effort(config: GenerateConfig, checkpoint: Checkpoint, source: Source) -> Effort:
    """Estimate what a row takes, from sizes that are known before a model is loaded."""
    bytes_each = 2 if "16" in checkpoint.dtype else 4
    longest, sampling, cluster = model_len(checkpoint, config.engine), config.sampling, config.cluster
    size, rows = sum(f.size for f in source.files), sum(f.rows for f in source.files)
    prompt = min(longest - 1, size / BYTES_A_TOKEN / max(1, rows))
    speed = CORE_SPEED * cluster.likely_threads()
    if cluster.gpus_per_replica > 0:
        speed = GPU_SPEED * cluster.gpus_per_replica
    return Effort(_weight_bytes(checkpoint) / bytes_each, prompt, sampling.n * min(longest, sampling.max_tokens), speed)


def _weight_bytes(checkpoint: Checkpoint) -> int:
    return sum(p.stat().st_size for p in checkpoint.directory.glob("*.safetensors"))


@contextlib.contextmanager
def refusing(refusal: type[Refused], what: str) -> Iterator[None]:
    """Turn an exception of a library that nobody expected into a refusal: fsspec and the hub raise all kinds of them."""
    try:
        yield
    except (PromptmillError, MemoryError):
        raise
    except Exception as error:
        raise refusal(f"{what}: {type(error).__name__}: {one_line(error)}") from error


def _check_structured(config: GenerateConfig) -> None:
    """Refuse a regex, choice or JSON Schema that cannot be followed."""
    try:
        check_in_time(config.sampling)
    except ValueError as error:
        name, _, why = str(error).partition(": ")
        value = f"={one_line(config.sampling.regex, 60)}" if name == "regex" and config.sampling.regex else ""
        raise ConfigurationError(f"sampling.{name}{value}: {why}") from error


def _check_tokenizer(config: GenerateConfig, checkpoint: Checkpoint) -> None:
    """Refuse structured output with a tokenizer that cannot spell it; otherwise it is not loaded here, which takes seconds."""
    if config.sampling.structured is not None and checkpoint.vocab_size is not None:
        tokenizer = load_tokenizer(checkpoint.tokenizer, checkpoint.vocab_size)
        try:
            Grammars(tokenizer, checkpoint.vocab_size, (), 1).check(config.sampling)
        except ValueError as error:
            raise ConfigurationError(f"sampling.{error}") from error


def _check_vocabulary(config: GenerateConfig, size: int | None) -> None:
    """Refuse what asks for tokens that the model does not have."""
    if size is None:
        return
    beyond = config.sampling.beyond(size)
    if beyond is not None:
        raise ConfigurationError(
            f"sampling.{beyond[0]}: {beyond[1]} is no token of the model, which has ids 0 to {size - 1}"
        )
    if config.stats.top_logprobs > size:
        raise ConfigurationError(f"stats.top_logprobs={config.stats.top_logprobs}: the model has {size} tokens")


_INT8_SCHEME = 2
"""Which way of quantising `int8` is: a run that was begun with an earlier one is not resumed with other numbers."""


def _options(config: GenerateConfig, checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything but the input files that decides the output's bytes; paths do not, what is in them does."""
    source, kv_dtype = asdict(config.source), config.model.kv_cache_dtype
    del source["path"], source["template_file"]
    sampling = asdict(config.sampling)
    del sampling["json_schema_file"]
    on_gpu = config.cluster.gpus_per_replica > 0  # elsewhere, these two change nothing
    rounding: dict[str, Any] = {"tf32": True} if on_gpu and config.model.tf32 else {}
    batching: dict[str, Any] = {"deterministic": False} if on_gpu and not config.engine.deterministic else {}
    if config.engine.kernels == "none" and not on_gpu:
        # torch's sums have other last bits; those of compiled levels are the same, but for bfloat16, as on other processors
        batching["kernels"] = "none"
    if config.model.quantization == "int8":
        rounding["int8_scheme"] = _INT8_SCHEME
    return {
        "schema": SCHEMA_VERSION,
        "model": {
            "content": checkpoint.content(),
            "dtype": _dtype(config, checkpoint),
            "quantization": config.model.quantization,
            "kv_cache_dtype": _dtype(config, checkpoint) if kv_dtype == "auto" else kv_dtype,
            **rounding,
        },
        "engine": {
            "name": config.engine.name,
            "max_model_len": model_len(checkpoint, config.engine),
            **batching,
        },
        "sampling": sampling,
        "stats": asdict(config.stats),
        "source": source,
        "output": {"include_prompt": config.output.include_prompt},
    }


def _dtype(config: GenerateConfig, checkpoint: Checkpoint) -> str:
    """What `auto` stands for: float32 on a processor, the checkpoint's own type on a GPU.

    It is settled here, in the plan, so that a run begun on one kind of device is not resumed in another type.
    """
    if config.model.dtype != "auto":
        return config.model.dtype
    return "float32" if config.cluster.gpus_per_replica == 0 else checkpoint.dtype


def _check_apart(source: str, output: str) -> None:
    """Refuse an output whose parts would be listed as input the next time."""
    given, made = _place(source), _place(output)
    if made == given:
        raise PlanRefused(f"output.path={output}: is the input's own folder; choose another")
    if made.is_relative_to(given):
        raise PlanRefused(
            f"output.path={output}: is inside source.path, so its parts would be read as prompts the next time; choose another"
        )


def _check_keys(output: str, columns: Sequence[str]) -> None:
    """Refuse a folder `text=…` on the way to the output: DuckDB and others would read its value for the column."""
    names = {name.casefold() for name in columns}
    for folder in _place(output).parts:
        key, equals, _ = folder.partition("=")
        if equals and key.casefold() in names:
            raise PlanRefused(
                f"output.path={output}: who reads the output takes the folder {folder!r} for the column {key!r}, which it has; "
                "choose another"
            )


def _absolute(path: str) -> str:
    """A local path from the root of the file system; a URI as it is."""
    return path if "://" in path else str(Path(path).expanduser().absolute())


def _place(path: str) -> PurePath:
    """Where a path leads, however it is written; another machine's is left as it is."""
    path = path.removeprefix("file://")
    return PurePath(path) if "://" in path else Path(path).expanduser().resolve()
