"""Splits the overrides of a command line into the runs of a multirun, and keeps values that Hydra would change."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from jobs.options.keys import MAPPINGS, Key, keys
from pipeline.errors import ConfigurationError
from pipeline.wording import quoted

FREE_TEXT = (
    "sampling.stop", "sampling.bad_words", "sampling.choice", "source.template", "source.system_prompt",
    "source.chat_template", "source.id_template",
)  # fmt: skip
LONGEST_NAME = 120
NO_INTERPOLATION = re.compile(r"(?<!\\)\$\{(?![A-Za-z_.][\w.]*(:[^{}]*)?\})")
"""`${` that begins no interpolation, as in the template `costs ${{ price }}`."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One run's overrides, and the name of its folder: empty for the only run, or when the sweep names the folders."""

    overrides: tuple[str, ...]
    folder: str = ""


def variants(overrides: Sequence[str], *, schema: type, multirun: bool, parser: OverridesParser) -> list[Variant]:
    """Expand the keys that have several values into one variant per combination.

    Raises:
        ConfigurationError: If there are several values without `-m`, or they cannot be listed.
        hydra.errors.OverrideParseException: If an override is not of Hydra's grammar.
    """
    parsed = parser.parse_overrides([_as_meant(line, schema, parser) for line in overrides])
    choices = [_values(override, multirun, schema) for override in parsed]
    swept = [i for i, override in enumerate(parsed) if override.is_sweep_override()]
    if not swept:
        return [Variant(tuple(line for (line,) in choices))]
    named = [i for i in swept if parsed[i].key_or_group != "output.path"]
    runs = [
        Variant(combination, ",".join(combination[i] for i in named)) for combination in itertools.product(*choices)
    ]
    return _with_safe_folders(runs)


def _instead(name: str, value: str, key: Key | None) -> str:
    """Return a hint: what several values may have been meant as, written correctly; empty if there is nothing to say."""
    if key is None:
        return ""
    if key.allowed.startswith("a list"):
        return f" (a list is {name}=[{value}])"
    if key.allowed.endswith("a number") and re.fullmatch(r"-?\d+,\d+", value):
        return f" (a decimal fraction has a point: {name}={value.replace(',', '.')})"
    if key.textual and '"' not in value and "\\" not in value:
        quoted = f'{name}="{value}"'
        return f" (a text is quoted; in a shell: {shlex.quote(quoted)})"
    return ""


def _values(override: Override, multirun: bool, schema: type) -> list[str]:
    line = override.input_line or ""
    if not override.is_sweep_override():
        return [line]
    key, _, value = line.partition("=")
    if not multirun:
        hint = _instead(key, value, keys(schema).get(key))
        raise ConfigurationError(f"{line}: several values; add -m to run each of them{hint}")
    if not override.is_discrete_sweep():
        raise ConfigurationError(
            f"{line}: an interval has no values to list; write them out, or use range(start,stop,step)"
        )
    values = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    if not values:
        raise ConfigurationError(f"{line}: no value matches")
    return values


def _as_meant(line: str, schema: type, parser: OverridesParser) -> str:
    r"""Rewrite an override whose value Hydra's grammar would change.

    Within quotes, `\n`, `\t` and `\r` in lists of texts and in templates become the characters, as a user of JSON or YAML
    expects and Hydra does not do. A value that looks like a number but is for a text key (`model.revision=0012`,
    `1e5`) stays the text it was.
    """
    name, _, value = line.partition("=")
    if name in MAPPINGS and value.lstrip().startswith("{") and (text := _pasted(name, value)) is not None:
        return f"{name}={text}"
    if name in (*FREE_TEXT, "sampling.regex"):
        line = NO_INTERPOLATION.sub(r"\\${", line)
    if name in FREE_TEXT and re.search("[\"']", value):
        control = {"n": "\n", "t": "\t", "r": "\r"}
        return re.sub(r"(?<!\\)((?:\\\\)*)\\([ntr])", lambda m: m[1] + control[m[2]], line)
    key = keys(schema).get(name)
    if key is not None and key.textual:
        (parsed,) = parser.parse_overrides([line])
        if not parsed.is_sweep_override() and isinstance(parsed.value(), int | float):
            return f'{name}="{value.strip()}"'
    return line


def _pasted(name: str, value: str) -> str | None:
    """Return JSON with quoted keys, which Hydra refuses, as a quoted text or a mapping that it accepts; None for other text."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    if name == "sampling.logit_bias":
        return "{" + ",".join(f"{token}:{bias}" for token, bias in found.items()) + "}"
    if name == "source.chat_template_kwargs":
        return _as_mapping(found)
    return quoted(json.dumps(found, ensure_ascii=False))


def _as_mapping(value: object) -> str:
    """Return a JSON value in Hydra's grammar, where keys have no quotes."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{name}:{_as_mapping(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_as_mapping, value)) + "]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def _with_safe_folders(runs: list[Variant]) -> list[Variant]:
    """Make folder names of the swept values: without separators and characters special to a shell or a URI, and none twice."""
    safe = [re.sub(r"[^\w.,=+-]+", "-", run.folder, flags=re.ASCII).lstrip(".") for run in runs]
    unique = {name for name in safe if safe.count(name) == 1 and len(name) <= LONGEST_NAME}
    return [
        replace(run, folder=name if name in unique or not name else f"{name[:LONGEST_NAME]}-{_digest(run.folder)}")
        for run, name in zip(runs, safe, strict=True)
    ]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
