"""Bundles a submitted job for a cluster: the code, the user's presets, and a command line that means the same there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig, OmegaConf

from jobs.console.launch import compose
from jobs.options import schema as schemas
from jobs.options.arguments import Arguments
from jobs.options.compose import Composed
from jobs.options.keys import sections
from jobs.spec import specs
from pipeline.errors import ConfigurationError

PACKAGES = ("jobs", "conf", "pipeline")
PRESETS = "presets"
"""The place of the user's presets in the bundle."""
PLACES = ("source.path", "output.path")
"""Keys that name a place, which a cluster's nodes must see."""
MODELS = ("model.path", "model.tokenizer", "model.adapter")
"""Keys that name a place if there is such a folder, else something on the hub."""


@contextmanager
def bundle(config_dir: str | None) -> Iterator[Path]:
    """Yield a temporary folder with this process's code."""
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
        if config_dir is not None:
            shutil.copytree(config_dir, folder / PRESETS, ignore=ignored)
        yield folder


HERE = ("diff", "doctor", "import", "report", "show", "submit")
"""Jobs that run on this machine only: what they make is for whoever sits at it."""


def command(job: str, python: str, arguments: Arguments) -> str:
    """Compose a job as on the cluster, and return the command line to run there.

    Relative paths become absolute, because another machine has another current folder.

    Raises:
        PromptmillError: If anything in the configuration is wrong.
    """
    known = {name: spec for name, spec in specs().items() if name not in HERE}
    if job not in known:
        others = ", ".join(known)
        raise ConfigurationError(f"job={job}: must be one of {others}")
    schema = known[job].schema
    overrides = list(arguments.overrides)
    if "cluster" in sections(schema) and not any(re.match(r"cluster(\.name)?=", line) for line in overrides):
        overrides.append("cluster=existing")
    if arguments.multirun:
        raise ConfigurationError("-m: submit each run by itself, with a submission_id of its own")
    run: Composed[Any]
    (run,) = compose(known[job], Arguments(tuple(overrides), config_dir=arguments.config_dir))
    overrides += _placed(run)
    presets = ["--config-dir", PRESETS] if arguments.config_dir is not None else []
    return "exec " + shlex.join([python, "-m", f"jobs.{job}", *presets, *overrides])


def _placed(run: Composed[Any]) -> Iterator[str]:
    """Yield overrides that make relative paths absolute; interpolations stay, and are resolved on the cluster."""
    tree = OmegaConf.create(run.yaml)
    assert isinstance(tree, DictConfig)
    plain = OmegaConf.to_container(tree, resolve=False)
    for key in (*PLACES, *MODELS):
        section, _, name = key.partition(".")
        value = plain.get(section, {}).get(name) if isinstance(plain, dict) else None
        if not isinstance(value, str) or "://" in value or value.startswith(("/", "${")):
            continue
        path = Path(value).expanduser()
        if key in PLACES or path.is_dir():
            text = str(path if path.is_absolute() else Path.cwd() / path).replace("\\", "\\\\").replace('"', '\\"')
            yield f'{key}="{text}"'
