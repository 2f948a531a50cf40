"""Checks overrides before they are composed, for mistakes that Hydra would report poorly, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from hydra.core.override_parser.types import Override

from jobs.options.keys import Key, keys, sections
from jobs.options.mistakes import no_such_key
from pipeline.errors import ConfigurationError

EXPERIMENT = "experiment"
"""The group of presets that fills no section, but a whole configuration."""


def check(
    overrides: Sequence[Override], schema: type, groups: Collection[str], presets: Callable[[str], Sequence[str]]
) -> None:
    """Refuse unknown keys, groups that are set to no preset, and parts that are added twice or taken out.

    Args:
        overrides: A run's overrides.
        schema: The job's configuration dataclass.
        groups: The groups there are.
        presets: Lists a group's presets; only asked for a message, as it takes Hydra a while.

    Raises:
        ConfigurationError: At the first mistake.
    """
    known: Collection[str] = {*keys(schema), *sections(schema)}
    for override in overrides:
        name, line = override.key_or_group, override.input_line
        if not name:
            raise ConfigurationError(f"{line}: not KEY=VALUE, nor GROUP=PRESET for a preset")
        if name.split(".")[0] == "hydra" or "/" in name or override.package is not None:
            continue  # Hydra's own, which it checks itself
        if name not in groups and name not in known:
            raise ConfigurationError(no_such_key(name, schema))
        optional = name not in known  # such as experiment
        if override.is_delete() and not optional:
            raise ConfigurationError(f"{line}: {name} cannot be removed; set it to something else")
        if name in keys(schema):
            _check_truth(override, keys(schema)[name])
        if name in groups:
            _check_group(override, optional, presets)


def _check_truth(override: Override, key: Key) -> None:
    """Refuse numbers other than 0 and 1 where true or false is asked for: OmegaConf takes them all as true."""
    value = override.value()
    if key.type in (bool, bool | None) and isinstance(value, int | float) and value not in (0, 1):
        raise ConfigurationError(f"{override.input_line}: must be {key.allowed}")


def _check_group(override: Override, optional: bool, presets: Callable[[str], Sequence[str]]) -> None:
    line = override.input_line or ""
    ours = not optional or override.key_or_group == EXPERIMENT
    if override.is_add() and ours:  # a group of the user's own has to be added
        raise ConfigurationError(f"{line}: {override.key_or_group} is set already; write {line.lstrip('+')}")
    value = override.value()
    is_name = isinstance(value, str) or (isinstance(value, list) and value and all(isinstance(v, str) for v in value))
    if not is_name and not (value is None if optional else isinstance(value, dict)):
        names = ", ".join(presets(override.key_or_group))
        raise ConfigurationError(f"{line}: must be the name of a preset: {names}")
