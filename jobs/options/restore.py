"""Restores the configuration that is stored with an output, as typed objects, and prepares its job again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from jobs.options import schema as schemas
from jobs.options.compose import to_typed
from jobs.options.mistakes import explain
from jobs.spec import specs
from pipeline.errors import ConfigurationError
from pipeline.wording import uninterpolated

if TYPE_CHECKING:
    from pipeline.work.job import Job

Config = TypeVar("Config")


def restored(text: str, schema: type[Config], path: str) -> Config:
    """Read a composed configuration.

    Args:
        text: The YAML, interpolations unresolved.
        schema: Its root dataclass.
        path: Where the output is now.

    Raises:
        ConfigurationError: If it is not a configuration of this version, or an interpolation has no value on this machine.
    """
    schemas.register_examples()
    try:
        tree = OmegaConf.merge(schemas.as_written(schema), OmegaConf.create(text))
        assert isinstance(tree, DictConfig)
        tree.output.path = uninterpolated(path)
        return to_typed(tree, schema)
    except Exception as error:  # whatever goes wrong here is in the text
        raise ConfigurationError(f"_job/config.yaml: {explain(error, schema, [])}") from error


def job_of(text: str, path: str, fingerprint: Mapping[str, Any]) -> Job:
    """Prepare the job that made an output once more, from its stored configuration; relative paths start at the current folder.

    Args:
        text: The content of its `_job/config.yaml`.
        path: Where the output is now.
        fingerprint: Its plan's fingerprint; it names the recipe, which has the job's name.

    Raises:
        PromptmillError: If its model or its input cannot be found or used here.
    """
    from pipeline.work.prepare import prepare  # late: it brings in pyarrow

    recipe = fingerprint.get("recipe", "generate")
    return prepare(restored(text, specs()[recipe].schema, path), recipe, fingerprint, fresh=True).job
