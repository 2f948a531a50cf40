"""Composes a job's configuration from `conf/` and a command line, and turns it into typed objects.

It starts nothing and writes nothing, not even Hydra's folders and files around a job, because it uses Hydra's compose API
instead of its job runner. So all runs of a multirun are composed and checked before the first one starts.
"""

from __future__ import annotations

import logging
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, TypeVar

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from jobs.options import schema as schemas
from jobs.options.arguments import Arguments
from jobs.options.files import take_in
from jobs.options.keys import fixed, keys, sections
from jobs.options.mistakes import explain, no_such_key
from jobs.options.precheck import check
from jobs.options.sweep import Variant, variants
from pipeline.errors import ConfigurationError, PromptmillError
from pipeline.inspect.config import InspectedOutput
from pipeline.prompts.imports.config import ImportOutput
from pipeline.work.config import NOWHERE

Config = TypeVar("Config")


@dataclass(frozen=True, slots=True)
class Composed(Generic[Config]):
    """One run's configuration.

    Attributes:
        overrides: The command line of this run.
        yaml: The configuration as text, interpolations unresolved, so that it writes no secret to disk.
        config: The typed and checked objects; None if only the text was requested.
        verbose: Whether debug messages were requested (`hydra.verbose=true`).
        files: Key that named a file → the file's content, which the configuration has in its place.
    """

    overrides: tuple[str, ...]
    yaml: str
    config: Config | None
    verbose: bool
    files: Mapping[str, str] = field(default_factory=dict)


def compose_runs(job: str, schema: type[Config], arguments: Arguments) -> list[Composed[Config]]:
    """Compose every run that a command line asks for; several only with `-m`.

    Raises:
        PromptmillError: If anything in the configuration of any of the runs is wrong; the text is one line.
    """
    schemas.register(job, schema)
    given = [*arguments.overrides]
    try:
        with _hydra(job):
            extra = _search_path(arguments.config_dir)
            loader = GlobalHydra.instance().config_loader()
            parser = OverridesParser.create(config_loader=loader)
            runs = variants(given, schema=schema, multirun=arguments.multirun, parser=parser)
            listed = partial(loader.get_group_options, config_name=job, overrides=extra)
            groups = listed("", ObjectType.GROUP)
            for run in runs:
                check(parser.parse_overrides(list(run.overrides)), schema, groups, listed)
            composed = [_one(job, schema, run, i, extra, arguments) for i, run in enumerate(runs)]
        _check_files(composed)
        return composed
    except PromptmillError:
        raise
    except Exception as error:  # composing has no effects: any error here is one of the configuration
        raise explain(error, schema, given, _groups(job)) from error


def _one(
    job: str, schema: type[Config], run: Variant, number: int, extra: Sequence[str], arguments: Arguments
) -> Composed[Config]:
    tree = compose(job, [*run.overrides, *extra], return_hydra_config=True)
    with open_dict(tree):
        tree.hydra.job.num, tree.hydra.job.id = number, str(number)
        tree.hydra.mode = RunMode.MULTIRUN if arguments.multirun else RunMode.RUN
        HydraConfig.instance().set_config(tree)  # for interpolations such as ${hydra:job.override_dirname}
        verbose = bool(tree.pop("hydra").verbose)
    _check_keys(tree, schema)
    taken = take_in(tree)
    if run.folder and _makes_outputs(schema):
        # The path itself may be an interpolation, and must stay one.
        path = OmegaConf.to_container(tree.output, resolve=False)["path"]  # type: ignore[index, call-overload]
        if path != "???":
            tree.output.path = f"{str(path).rstrip('/')}/{run.folder}"
    if job == "generate" and tree.preview is not None and OmegaConf.is_missing(tree.output, "path"):
        tree.output.path = NOWHERE
    yaml = OmegaConf.to_yaml(tree, resolve=False)
    if arguments.show_config:
        shown = OmegaConf.to_yaml(tree, resolve=True) if arguments.resolve else yaml
        return Composed(run.overrides, shown, None, verbose)
    return Composed(run.overrides, yaml, to_typed(tree, schema), verbose, taken)


def _check_files(runs: Sequence[Composed[Any]]) -> None:
    """Refuse a file that several runs of one command would write: the last would replace what the others wrote."""
    for key in ("results", "json", "html", "output.path"):
        named = [file for run in runs if (file := _written(run.config, key)) is not None]
        twice = next((file for place, file in enumerate(named) if file in named[:place]), None)
        if twice is not None:
            numbered = Path(twice).with_stem(f"{Path(twice).stem}-${{hydra:job.num}}")
            raise ConfigurationError(
                f"{key}={twice}: several runs of this command would write this file; a number in its name keeps them apart: "
                f"'{key}={numbered}'"
            )


def _written(config: Any, key: str) -> str | None:
    """Return the file that a run writes because of an option, if it writes one."""
    if key == "output.path":
        output = getattr(config, "output", None)
        with suppress(OSError, RuntimeError):  # a path that cannot be; the run says so
            return output.path if isinstance(output, ImportOutput) and not output.is_folder else None
    file = getattr(config, key, None)
    return file if isinstance(file, str) else None  # `plan` prints JSON


def to_typed(tree: DictConfig, schema: type[Config]) -> Config:
    """Turn a composed configuration into its dataclasses, which check themselves.

    Sections go first, one by one, so that an error can name the section of its key.

    Raises:
        ConfigurationError: If a value is out of range.
    """
    for section in sections(schema):
        _to_object(tree[section], f"{section}.")
    config: Config = _to_object(tree, "")
    return config


def _to_object(node: Any, prefix: str) -> Any:
    try:
        return OmegaConf.to_object(node)
    except OmegaConfBaseException:
        raise
    except ValueError as error:
        raise ConfigurationError(prefix + str(error).replace("=None: ", "=null: ", 1)) from error


def _makes_outputs(schema: type) -> bool:
    """Whether a run of the job makes, or foresees, an output: a folder, which each run of a multirun needs for itself."""
    kind = typing.get_type_hints(schema).get("output")
    return kind is not None and not issubclass(kind, InspectedOutput | ImportOutput)


def _check_keys(tree: DictConfig, schema: type) -> None:
    """Refuse unknown keys from overrides such as `sampling={…}`, which `to_object` would silently ignore."""
    known = {*keys(schema), *fixed(schema)}
    groups = sections(schema)
    for name in tree:
        if name not in groups and name not in known:
            raise ConfigurationError(no_such_key(str(name), schema))
    for section in groups:
        for name in tree[section]:
            if f"{section}.{name}" not in known:
                raise ConfigurationError(no_such_key(f"{section}.{name}", schema))


def _groups(job: str) -> list[str]:
    """The groups that a job takes presets of."""
    defaults = OmegaConf.load(str(files("conf") / f"{job}.yaml")).defaults
    return [str(group) for item in defaults if isinstance(item, DictConfig) for group in item]


def _search_path(folder: str | None) -> list[str]:
    if folder is None:
        return []
    if not Path(folder).is_dir():
        raise ConfigurationError(f"--config-dir {folder}: no such folder")
    return [f'hydra.searchpath=["file://{Path(folder).resolve()}"]']


@contextmanager
def _hydra(job: str) -> Iterator[None]:
    """Initialise Hydra to compose from the package `conf`, and reset it afterwards."""
    logging.getLogger("hydra").setLevel(logging.ERROR)
    with initialize_config_module("conf", job_name=job, version_base="1.3"):
        yield
