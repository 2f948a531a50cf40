"""Refuses options that do not fit each other, the model or the paths, before a model is loaded."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path, PurePath
from urllib.parse import unquote

from pipeline.engine.base import Backend, Foreseeable, Identity
from pipeline.engine.rules.grammar_guard import check_in_time
from pipeline.errors import ConfigurationError, PlanRefused
from pipeline.prompts.files.walk import is_hidden
from pipeline.wording import one_line
from pipeline.work.config import GenerateConfig
from pipeline.work.score.config import ScoreConfig


def check_structured(config: GenerateConfig) -> None:
    """Refuse a regex, choice or JSON Schema that llguidance cannot follow."""
    try:
        check_in_time(config.sampling.params())
    except ValueError as error:
        name, _, why = str(error).partition(": ")
        value = f"={one_line(config.sampling.regex, 60)}" if name == "regex" and config.sampling.regex else ""
        raise ConfigurationError(f"sampling.{name}{value}: {why}") from error


def check_vocabulary(config: GenerateConfig, size: int | None) -> None:
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


def check_statistics(config: GenerateConfig, identity: Identity) -> None:
    """Refuse statistics that the engine cannot measure."""
    name, stats = config.engine.name, config.stats
    if missing := [column for column in stats.columns if column not in identity.statistics]:
        can = ", ".join(sorted(identity.statistics)) or "none"
        raise ConfigurationError(f"stats.columns: engine={name} cannot measure {', '.join(missing)}; it can {can}")
    if not identity.lists and (stats.top_logprobs or stats.prompt_logprobs):
        key = "top_logprobs" if stats.top_logprobs else "prompt_logprobs"
        raise ConfigurationError(f"stats.{key}: engine={name} cannot give these")


def check_scores(config: GenerateConfig, identity: Identity, backend: Backend) -> None:
    """Refuse to score with an engine that cannot, in windows that leave tokens out, or after a token that is not there."""
    if not isinstance(config, ScoreConfig):
        return
    if not identity.scores:
        raise ConfigurationError(f"engine={config.engine.name}: cannot score given texts")
    stride, context = config.score.stride, identity.max_model_len
    if stride is not None and stride > context:
        raise ConfigurationError(f"score.stride={stride}: must be at most the context, which has {context} tokens")
    if (config.score.bos or config.score.unconditional) and isinstance(backend, Foreseeable):
        _check_first_token("bos" if config.score.bos else "unconditional", identity, backend)


def _check_first_token(key: str, identity: Identity, backend: Foreseeable) -> None:
    """Refuse to put a beginning-of-text token before texts where there is none, or none that the model has."""
    quick = backend.tokenizer(quick=True)
    tokenizer = quick if quick is not None and quick.bos_token_id is not None else backend.tokenizer(quick=False)
    if tokenizer is None:
        return
    first, size = tokenizer.bos_token_id, identity.vocab_size
    if first is None:
        raise ConfigurationError(
            f"score.{key}=true: the tokenizer names no beginning-of-text token, and no end-of-text token to stand for it"
        )
    if size is not None and first >= size:
        raise ConfigurationError(
            f"score.{key}=true: the tokenizer's beginning-of-text token has id {first}; the model has ids 0 to {size - 1}"
        )


def check_apart(source: str, output: str) -> None:
    """Refuse an output folder whose parts the next run would list as input."""
    given, made = _place(source), _place(output)
    if made == given:
        raise PlanRefused(f"output.path={output}: is the input's own folder; choose another")
    glob = not Path(given).exists()
    if made.is_relative_to(given) or (glob and _takes(given.parts, (*made.parts, "data", "part.parquet"))):
        raise PlanRefused(
            f"output.path={output}: is inside source.path, so the next run would read its parts as prompts; choose another"
        )


def _takes(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a source's glob takes a file, or a folder above it; `**` stands for any number of folders."""
    if not pattern or not parts:
        return not pattern
    if pattern[0] == "**" and _takes(pattern[1:], parts):
        return True
    if parts[0] != pattern[0] and (is_hidden(parts[0]) or not fnmatch.fnmatchcase(parts[0], pattern[0])):
        return False
    return _takes(pattern if pattern[0] == "**" else pattern[1:], parts[1:])


def check_keys(output: str, columns: Sequence[str]) -> None:
    """Refuse a folder `text=…` in the output's path: DuckDB and others would read its value as the column."""
    names = {name.casefold() for name in columns}
    for folder in _place(output).parts:
        key, equals, _ = folder.partition("=")
        if equals and key.casefold() in names:
            raise PlanRefused(
                f"output.path={output}: readers take the folder {folder!r} for the column {key!r}, which the output has; "
                "choose another"
            )


def _place(path: str) -> PurePath:
    """Return a path with links and `..` resolved; a remote one unchanged."""
    scheme, found, rest = path.partition("://")
    if found and scheme.lower() != "file":
        return PurePath(path)
    return Path(unquote(rest.removeprefix("localhost")) if found else path).expanduser().resolve()
