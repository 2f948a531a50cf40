"""Turns the configuration that is kept with an output back into its typed objects, and those into the job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from jobs.options import schema as schemas
from jobs.options.compose import to_typed
from jobs.options.mistakes import explain
from jobs.spec import specs
from pipeline.errors import ConfigurationError

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
        ConfigurationError: If it is not a configuration of this version, or an interpolation has no value here.
    """
    schemas.register()
    try:
        tree = OmegaConf.merge(schemas.as_written(schema), OmegaConf.create(text))
        assert isinstance(tree, DictConfig)
        tree.output.path = path
        return to_typed(tree, schema)
    except Exception as error:  # whatever goes wrong here is in the text
        raise ConfigurationError(f"_job/config.yaml: {explain(error, schema, [])}") from error


def job_of(text: str, path: str, fingerprint: Mapping[str, Any]) -> Job:
    """Plan the job again that made an output, as its configuration says; relative paths are taken from here.

    Args:
        text: The content of its `_job/config.yaml`.
        path: Where the output is now.
        fingerprint: That of its plan; it names the recipe, which has the name of the job.

    Raises:
        PromptmillError: If its model or its input cannot be found or used here.
    """
    from pipeline.work.prepare import prepare  # late: it brings in pyarrow

    recipe = fingerprint.get("recipe", "generate")
    return prepare(restored(text, specs()[recipe].schema, path), recipe, fingerprint, fresh=True).job
