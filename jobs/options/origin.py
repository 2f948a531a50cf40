"""Says where an output comes from, by the configuration that is kept with it: a command, the model, its tokenizer."""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from jobs.options.arguments import Arguments
from jobs.options.compose import compose_runs
from jobs.options.restore import restored
from jobs.options.spelling import tokenizer_of
from jobs.spec import JobSpec, specs
from pipeline.errors import PromptmillError
from pipeline.inspect.output import Output
from pipeline.inspect.report.subject import Origin
from pipeline.output.folder import CONFIG
from pipeline.wording import in_quotes, masked, one_line, override, without_secrets

log = logging.getLogger(__name__)
_LEFT_OUT = ("preview", "preview_random", "output.report")
"""Keys that change neither what comes out nor how."""
_LAST = ("source.path", "output.path")
_LICENCE = re.compile(r"^license:[ \t]*[\"']?([\w.+-]{1,60})[\"']?[ \t]*$", re.MULTILINE)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CARD_BYTES = 1 << 16
_LONGEST = 10_000
"""Most characters of a command that is given: one with a large JSON Schema in it is of no use."""


def origin_of(output: Output) -> Origin:
    """Return what is known; a configuration that is lost or of another version leaves most of it open."""
    try:
        fingerprint = output.plan().fingerprint
        job = specs()[fingerprint.get("recipe", "generate")]
        text = output.store.get(CONFIG).decode()
        config: Any = restored(text, job.schema, output.path)
        model = config.model
    except (PromptmillError, OSError, ValueError, KeyError) as error:
        log.info("%s: its configuration cannot be used: %s", without_secrets(output.path), one_line(error, 300))
        return Origin()
    folder = _folder(model.path, model.revision)
    local = _place(model.path).is_dir()
    return Origin(
        job=job.name,
        command=_command(text, job),
        model=_place(model.path).name if local else model.path,
        commit=None if local or folder is None else folder.name,
        licence=None if folder is None else _licence(folder),
        tokenizer=tokenizer_of(output),
    )


def _command(text: str, job: JobSpec[Any]) -> str | None:
    """Return a command that asks for the same: the keys whose values are not those that the job has by itself."""
    try:
        usual = OmegaConf.create(compose_runs(job.name, job.schema, Arguments((), show_config=True))[0].yaml)
        asked = OmegaConf.create(text)
        assert isinstance(usual, DictConfig) and isinstance(asked, DictConfig)
        there, here = (_flat(OmegaConf.to_container(tree, resolve=False)) for tree in (usual, asked))
    except Exception as error:  # a preset or a key of another version
        log.info("no command is given: %s", one_line(error, 300))
        return None
    changed = {key: value for key, value in here.items() if there.get(key, "") != value and key not in _LEFT_OUT}
    order = sorted(changed, key=lambda key: (key in _LAST, _LAST.index(key) if key in _LAST else 0))
    command = " ".join(["promptmill", job.name, *(shlex.quote(_word(key, changed[key])) for key in order)])
    return command if len(command) <= _LONGEST else None


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return key → value; mappings that are a key's value stay whole."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and not prefix:
            found |= _flat(value, f"{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _word(key: str, value: Any) -> str:
    """Return KEY=VALUE in Hydra's grammar; the value is as YAML has it, with interpolations."""
    if isinstance(value, str) and "${" not in value:
        return override(key, masked(value) if _URI.match(value) else value)
    return f"{key}={_value(value)}"


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return in_quotes(masked(value) if _URI.match(value) else value)
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_value(inner)}" for key, inner in value.items()) + "}"
    return str(value)


def _folder(path: str, revision: str | None) -> Path | None:
    """Return a model's folder on this machine: the one that is named, or the hub's cache; None if it is not here."""
    folder = _place(path)
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache  # late: a folder needs no hub

    try:
        found = try_to_load_from_cache(path, "config.json", revision=revision)
    except (ValueError, OSError):
        return None
    return Path(found).parent if isinstance(found, str) else None


def _place(path: str) -> Path:
    return Path(os.path.expanduser(path))  # noqa: PTH111 - the user whose home it is may not be on this machine


def _licence(folder: Path) -> str | None:
    """Return the licence that a model's own card states in its head."""
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            text = file.read(_CARD_BYTES)
    except OSError:
        return None
    head = text.split("\n---", 1)[0] if text.startswith("---") else ""
    found = _LICENCE.search(head)
    return None if found is None else found[1]
