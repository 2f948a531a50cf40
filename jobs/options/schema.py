"""Tells Hydra the types of a job's configuration, and where the examples are."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from jobs.options.keys import keys
from jobs.spec import specs
from pipeline.errors import ConfigurationError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def register(job: str, schema: type) -> None:
    """Register a job's structured configuration, and the resolver of the examples. Doing it twice does no harm.

    It has the name of the job, and those of the other jobs with the same one: a job may be a YAML file on top of another's.

    A job's root dataclass holds its sections typed, so a preset of any group is checked against its section when it
    is merged: the groups need no schema of their own.
    """
    for name in {job, *(name for name, spec in specs().items() if spec.schema is schema)}:
        _store(name, schema)
    register_examples()


def register_examples() -> None:
    """Register the resolver `promptmill.examples`. Doing it twice does no harm."""
    OmegaConf.register_new_resolver("promptmill.examples", example, replace=True)


@cache
def _store(name: str, schema: type) -> None:
    """Store a schema when it is first asked for: making one takes as long as composing with it."""
    store = ConfigStore.instance()
    # Hydra copies the places where it looks, and with them this store, twice for each run; it changes no copy.
    vars(store)["__deepcopy__"] = lambda memo: store
    store.store(name=f"{name}_schema", node=as_written(schema), provider="promptmill")


def as_written(schema: type) -> DictConfig:
    """Return a schema with the defaults that its fields declare.

    OmegaConf makes an instance of every section, which may fill in a key that was left open, as `source` does with
    `prompt_column`. That is too early here: the other keys are not known yet.
    """
    node: DictConfig = OmegaConf.structured(schema)
    for key in keys(schema).values():
        OmegaConf.update(node, key.name, key.default)
        if isinstance(key.default, dict):
            OmegaConf.set_struct(OmegaConf.select(node, key.name), False)  # any item may be added to a mapping
    return node


def example(name: str) -> str:
    """Return the path of an example: beside the packages, in a checkout or an editable installation.

    Raises:
        ConfigurationError: If the examples are not there, as in an installation from a wheel.
    """
    path = EXAMPLES / name
    if not path.exists():
        raise ConfigurationError(
            f"the example {name} is not there: it comes with a checkout of promptmill, in {EXAMPLES}"
        )
    return str(path)
