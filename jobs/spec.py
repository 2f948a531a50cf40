"""What a job is to the command line, and which jobs there are: every module of this folder that has a `JOB`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pipeline.errors import ExitCode

if TYPE_CHECKING:
    from jobs.options.arguments import Arguments
    from jobs.options.compose import Composed

Config = TypeVar("Config")


@dataclass(frozen=True, slots=True)
class JobSpec(Generic[Config]):
    """A job. Its module, its configuration dataclass and `conf/NAME.yaml` are all that it takes.

    Attributes:
        name: The word after `promptmill`, and the name of the module where it can be one.
        summary: One line for the help pages.
        schema: The root dataclass of its configuration; every field's metadata has its `help`.
        run: Does the job with the configuration that was composed and its YAML, and returns the exit code.
        examples: Pairs of what is done and the command that does it.
        exit_codes: Those that it may end with.
        usage: What may follow its name, a line per form.
        flags: Flags of its own, each with the override that it stands for and what it does.
        positional: Keys whose values may be given without the key, in this order.
        verbatim: Keys whose values are taken as they are typed, not read in Hydra's grammar.
        compose: Makes the runs of a command line; None: they are composed from `schema`, as for most jobs.
    """

    name: str
    summary: str
    schema: type
    run: Callable[[Config, str], int]
    examples: tuple[tuple[str, str], ...] = ()
    exit_codes: tuple[ExitCode, ...] = tuple(
        code for code in ExitCode if code not in (ExitCode.DAMAGED, ExitCode.DIFFERENT, ExitCode.OFF, ExitCode.TO_FIX)
    )
    usage: tuple[str, ...] = ("[KEY=VALUE | GROUP=PRESET ...]",)
    flags: tuple[tuple[str, str, str], ...] = ()
    positional: tuple[str, ...] = ()
    verbatim: tuple[str, ...] = ()
    compose: Callable[[Arguments], list[Composed[Config]]] | None = None


def specs() -> dict[str, JobSpec[Any]]:
    """Return the jobs by name."""
    package = importlib.import_module("jobs")
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg]
    modules = [importlib.import_module(f"jobs.{name}") for name in names if not name.startswith("_")]
    found = [spec for module in modules if isinstance(spec := getattr(module, "JOB", None), JobSpec)]
    return {spec.name: spec for spec in found}
