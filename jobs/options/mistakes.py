"""Turns what Hydra and OmegaConf raise into one line that names the key, its value and what is allowed."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    GrammarParseError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from jobs.options.keys import MAPPINGS, keys, nearest
from pipeline.errors import ConfigurationError, PromptmillError
from pipeline.wording import did_you_mean, lines_of, plain

# What some required keys are for; `KEY is required: …`
REQUIRED = {
    "source.path": "the prompts, e.g. source.path=prompts.parquet",
    "output.path": "the output's folder, e.g. output.path=outputs/first",
    "a": "an output's folder, e.g. promptmill diff outputs/first outputs/second",
    "b": "another output's folder, e.g. promptmill diff outputs/first outputs/second",
}
_SHOWN = 160
"""Characters of an override or value in a message."""


_PATHS = {
    "model": "a model of the hub, or in a folder,", "source": "the place of the prompts", "output": "the output's folder",
}  # fmt: skip
"""The meaning of the key `path` of a section."""


def explain(error: Exception, schema: type, overrides: Sequence[str], groups: Sequence[str] = ()) -> PromptmillError:
    """Return the error that says in one line what is wrong with the configuration.

    Args:
        error: What Hydra, OmegaConf or a dataclass raised.
        schema: The job's configuration dataclass.
        overrides: The command line, where the value of a key is found as it was written.
        groups: The groups that the job takes presets of.
    """
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, PromptmillError):
            return link
    if isinstance(error, OverrideParseException):
        return ConfigurationError(bad_syntax(error.override, schema))
    if isinstance(error, MissingConfigException):
        return ConfigurationError(_no_preset(error, schema))
    for link in chain:
        if isinstance(link, OmegaConfBaseException) and link.full_key:
            return ConfigurationError(_about_key(link, schema, overrides) + _where(error))
    other = re.match(r"Could not (?:override|delete) '([^'@]+)'\. No match in the defaults list", _one_line(error))
    if other:
        return ConfigurationError(_no_group(other[1], groups, overrides))
    return ConfigurationError(_one_line(error) + _where(error))


def _json_fault(value: str) -> str | None:
    """What is wrong with a text that is meant as a JSON object."""
    try:
        json.loads(value)
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


def bad_syntax(override: str, schema: type) -> str:
    """Say that an override cannot be parsed, and show how a text would be quoted."""
    name, equals, value = override.partition("=")
    if not equals:
        return f"{plain(override, _SHOWN)}: not KEY=VALUE, nor GROUP=PRESET for a preset"
    key, shown = keys(schema).get(name), plain(override, _SHOWN)
    if name in MAPPINGS and (fault := _json_fault(value)) is not None:
        instead = f", or {name}_file=FILE" if f"{name}_file" in keys(schema) else ""
        return f"{shown}: is not JSON: {fault}; in a shell, put it in single quotes: '{name}=…'{instead}"
    quoted = name + '="' + re.sub(r'(\\*)"', r'\1\1\\"', value) + '"'
    if key is not None and key.textual and _parses(quoted):
        return f"{shown}: special characters need quotes; in a shell: {shlex.quote(plain(quoted, _SHOWN))}"
    allowed = f": {name} must be {key.allowed}" if key is not None else ""
    return f"{shown}: not a valid override{allowed}"


def _parses(override: str) -> bool:
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return False
    return True


def no_such_key(name: str, schema: type) -> str:
    """Say that a key does not exist, and which ones there are near it."""
    return f"{name}: no such key; {nearest(name, schema)}"


def no_such_preset(group: str, name: str, options: Sequence[str], schema: type) -> str:
    """Say that a group has no preset of a name, and which ones it has, or that a path is another key."""
    is_path = "/" in name or name.endswith((".parquet", ".pq")) or os.path.exists(name)  # noqa: PTH110 - of any length
    if is_path and f"{group}.path" in keys(schema):
        return f"{group}={name}: {group} names a preset; {_PATHS[group]} is {group}.path={name}"
    if not options:
        return f"{group}={name}: no such preset"
    there = "there are" if len(options) > 1 else "there is"
    hint = f"{close} " if (close := did_you_mean(name, options)) else "; "
    return f"{group}={name}: no such preset{hint}{there} {', '.join(options)}"


def _no_group(group: str, groups: Sequence[str], overrides: Sequence[str]) -> str:
    """Say that a job takes no presets of a group that other jobs have, and which ones it takes."""
    written = next((word for word in overrides if word.lstrip("~").partition("=")[0] == group), group)
    taken = f"only presets of {', '.join(groups)}" if groups else "no presets"
    return f"{plain(written, _SHOWN)}: this job takes {taken}"


def _about_key(error: OmegaConfBaseException, schema: type, overrides: Sequence[str]) -> str:
    name = str(error.full_key)
    known = keys(schema)
    # what is wrong may be an item of a list, or one of a mapping
    key = known.get(re.sub(r"\[\d+\]$", "", name)) or known.get(name.rpartition(".")[0])
    if isinstance(error, MissingMandatoryValue):
        return f"{name} is required" + (f": {REQUIRED[name]}" if name in REQUIRED else "")
    if isinstance(error, InterpolationResolutionError):
        reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", _one_line(error)).strip('"')
        return f"{name}: {reason[:1].lower()}{reason[1:]}"
    if isinstance(error, ConfigAttributeError | ConfigKeyError) and "not in" in str(error):
        if name.startswith("hydra."):
            return f"{name}: Hydra has no such key"
        return no_such_key(name, schema)
    if key is not None:
        given = _value(key.name, error, overrides)
        if isinstance(error, GrammarParseError) or "${" in given:
            return f"{key.name}{given}: ${{ begins an interpolation; for the characters themselves write \\${{"
        single = re.fullmatch(r"=([\w-]+)", given)
        hint = (
            f"; for one text write {key.name}=[{single[1]}]"
            if single and key.allowed.startswith("a list of texts")
            else ""
        )
        return f"{key.name}{given}: must be {key.allowed}{hint}"
    if isinstance(error, ValidationError):
        return f"{name}: must be a preset or keys of its own"
    return f"{name}: {_one_line(error)}"


def _value(name: str, error: OmegaConfBaseException, overrides: Sequence[str]) -> str:
    """Find the value of a key as it was written: on the command line, or else in OmegaConf's own message."""
    for override in reversed(overrides):
        key, equals, value = override.partition("=")
        if equals and key.lstrip("+~") == name:
            return "=" + plain(value, _SHOWN)
    found = re.search(r"Value '(.*?)' ", str(error)) or re.search(r"string: '(.*)'", str(error))
    return "=" + plain(found[1], _SHOWN) if found else ("=null" if "not Optional" in str(error) else "")


def _no_preset(error: MissingConfigException, schema: type) -> str:
    group, _, name = (error.missing_cfg_file or "").partition("/")
    if not name:
        return _one_line(error)
    return no_such_preset(group, name, error.options or [], schema)


def _where(error: Exception) -> str:
    """Name the preset file that the mistake is in, if it is not on the command line."""
    found = re.match(r"In '([^']+)': \w+ raised while composing", str(error))
    return f" (in the preset {found[1]}.yaml)" if found else ""


def _one_line(error: BaseException) -> str:
    """Return the useful part of a message, on one line."""
    noise = ("full_key:", "reference_type=", "object_type=", "See http", "To append to your")
    text = " ".join(line for line in lines_of(error) if not line.startswith(noise))
    return re.sub(r"^In '[^']+': \w+ raised while composing config: ", "", text) or type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
