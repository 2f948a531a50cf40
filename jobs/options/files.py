"""Replaces keys that name a file, such as `source.template_file`, by the file's content.

The output keeps the content, so `verify` does not depend on the file.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pipeline.errors import ConfigurationError
from pipeline.wording import uninterpolated

FILES = {"source.template_file": "source.template", "sampling.json_schema_file": "sampling.json_schema"}
"""Key that names a file → key that takes its content."""
EITHER = ("source.chat_template",)
"""Keys that take a template, or the name of a file with one: a template has a brace."""
MOST_BYTES = 2**20


def take_in(tree: DictConfig) -> dict[str, str]:
    """Replace each file that is named by its content.

    Returns:
        Key that named a file → the file's content.

    Raises:
        ConfigurationError: If a file cannot be read, is no text, or its content is given as well.
    """
    taken = dict[str, str]()
    for key, target in FILES.items():
        section = key.partition(".")[0]
        path = OmegaConf.select(tree, key) if section in tree else None
        if path is None:
            continue
        if OmegaConf.select(tree, target) is not None:
            raise ConfigurationError(f"{target} and {key}={path}: exclude each other; give one of them")
        content = _content(key, path)
        if target == "sampling.json_schema":
            _check_json(key, path, content)
        OmegaConf.update(tree, target, uninterpolated(content))
        OmegaConf.update(tree, key, None)
        taken[key] = content
    for key in EITHER:
        value = OmegaConf.select(tree, key) if key.partition(".")[0] in tree else None
        if value is not None and "{" not in value:
            taken[key] = _content(key, value)
            OmegaConf.update(tree, key, uninterpolated(taken[key]))
    return taken


def _check_json(key: str, path: str, text: str) -> None:
    """Refuse a file that is not JSON; here, unlike later, the message can name the file."""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{key}={path}: is not JSON: {error}") from error


def write_back(content: str, file: Path) -> None:
    """Write a file from which `take_in` takes this content."""
    file.write_text(content + "\n", encoding="utf-8-sig", newline="")


def _content(key: str, path: str) -> str:
    """Return a file's text, without the mark at its beginning and the final newline that editors add."""
    try:
        with Path(os.path.expanduser(path)).open("rb") as file:  # noqa: PTH111 - the user may not be there
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{key}={path}: {(error.strerror or str(error)).lower()}") from error
    if len(data) > MOST_BYTES:
        raise ConfigurationError(f"{key}={path}: is larger than 1 MiB, too large for a template or a schema")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{key}={path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
    return re.sub(r"\r?\n\Z", "", text)
