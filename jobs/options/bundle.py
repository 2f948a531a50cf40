"""Bundles a submitted job for a cluster: the code, the user's files, and a command line that means the same there."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig, OmegaConf

from jobs.console.launch import compose
from jobs.options import schema as schemas
from jobs.options.arguments import Arguments
from jobs.options.compose import Composed
from jobs.options.files import write_back
from jobs.options.keys import sections
from jobs.options.words import placed
from jobs.spec import specs
from pipeline.errors import ConfigurationError
from pipeline.wording import in_quotes

PACKAGES = ("jobs", "conf", "pipeline")
PRESETS = "presets"
"""The place of the user's presets in the bundle."""
FILES = "files"
"""The folder in the bundle with the files that options name, such as `source.template_file`."""
PLACES = ("source.path", "output.path", "results", "explain_sources")
"""Keys that name a place or a list of places, which a cluster's nodes must see."""
MODELS = ("model.path", "model.tokenizer", "model.adapter")
"""Keys that name a place if there is such a folder, else something on the hub."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a cluster is to run.

    Attributes:
        line: The command line, for a shell in the bundle's folder.
        presets: The folder with the user's own presets, or None.
        files: Name in the bundle's folder for files → content. The name tells the content, so that other content is another
            command line, which is not run under the same submission id.
    """

    line: str
    presets: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def bundle(command: Command) -> Iterator[Path]:
    """Yield a temporary folder with this process's code, and the files that a command needs."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    with TemporaryDirectory(prefix="promptmill-submit-") as name:
        folder = Path(name)
        for package in PACKAGES:
            spec = importlib.util.find_spec(package)
            assert spec is not None and spec.origin is not None
            shutil.copytree(Path(spec.origin).parent, folder / package, ignore=ignored)
        for example in ("demo-model", "prompts.parquet"):
            found = schemas.EXAMPLES / example
            if found.is_dir():
                shutil.copytree(found, folder / "examples" / example)
            elif found.exists():
                shutil.copy(found, folder / "examples" / example)
        if command.presets is not None:
            shutil.copytree(command.presets, folder / PRESETS, ignore=ignored)
        (folder / FILES).mkdir()
        for name, content in command.files.items():
            write_back(content, folder / FILES / name)
        yield folder


HERE = ("diff", "doctor", "import", "report", "show", "submit")
"""Jobs that run on this machine only: what they make is for whoever sits at it."""


def command(job: str, python: str, arguments: Arguments) -> Command:
    """Compose a job as on the cluster, and return what to run there.

    Relative paths become absolute, because another machine has another current folder. Files whose content belongs to the
    configuration, such as templates, go along.

    Raises:
        PromptmillError: If anything in the configuration is wrong.
    """
    known = {name: spec for name, spec in specs().items() if name not in HERE}
    if job not in known:
        others = ", ".join(known)
        raise ConfigurationError(f"job={job}: must be one of {others}")
    schema = known[job].schema
    if known[job].positional:
        arguments = placed(arguments, known[job].positional, known[job].verbatim)
    overrides = list(arguments.overrides)
    if "cluster" in sections(schema) and not any(re.match(r"cluster(\.name)?=", line) for line in overrides):
        overrides.append("cluster=existing")
    if arguments.multirun:
        raise ConfigurationError("-m: submit each run by itself, with a submission_id of its own")
    run: Composed[Any]
    (run,) = compose(known[job], Arguments(tuple(overrides), config_dir=arguments.config_dir))
    names = {key: f"{key}-{sha256(content.encode()).hexdigest()[:16]}" for key, content in run.files.items()}
    overrides += [*_absolute(run), *(f"{key}={FILES}/{name}" for key, name in names.items())]
    presets = ["--config-dir", PRESETS] if arguments.config_dir is not None else []
    line = "exec " + shlex.join([python, "-m", f"jobs.{job}", *presets, *overrides])
    return Command(line, arguments.config_dir, {name: run.files[key] for key, name in names.items()})


def _absolute(run: Composed[Any]) -> Iterator[str]:
    """Yield overrides that make relative paths absolute; interpolations stay, and are resolved on the cluster."""
    tree = OmegaConf.create(run.yaml)
    assert isinstance(tree, DictConfig)
    plain: Any = OmegaConf.to_container(tree, resolve=False)
    for key in (*PLACES, *MODELS):
        section, _, name = key.rpartition(".")
        value = (plain.get(section, {}) if section else plain).get(name)
        given = [str(each) for each in value] if isinstance(value, list) else [value] if isinstance(value, str) else []
        found = [_anywhere(each, anyway=key in PLACES) for each in given]
        if found != given:
            texts = ",".join(map(in_quotes, found))
            yield f"{key}=[{texts}]" if isinstance(value, list) else f"{key}={texts}"


def _anywhere(place: str, *, anyway: bool) -> str:
    """Make a path absolute, unless it is a URI or begins with an interpolation; without `anyway`, only that of a folder."""
    if "://" in place or place.startswith(("/", "${")):
        return place
    path = Path(os.path.expanduser(place))  # noqa: PTH111 - the user whose home it is may not be on this machine
    return str(path if path.is_absolute() else Path.cwd() / path) if anyway or path.is_dir() else place
