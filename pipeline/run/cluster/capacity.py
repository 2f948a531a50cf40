"""Checks that this machine has the cores and GPUs that a job without a cluster asks for, before anything starts."""

from __future__ import annotations

from importlib.metadata import version

from pipeline.errors import ConfigurationError
from pipeline.machine import cores
from pipeline.run.dispatch.sizing import gpu_places
from pipeline.wording import counted
from pipeline.work.config import ClusterConfig


def check_machine(config: ClusterConfig) -> None:
    """Refuse more cores or GPUs than this machine has.

    Raises:
        ConfigurationError: The message says what was asked for and what exists.
    """
    if config.name == "existing":
        return
    asked, there = config.cpus_per_replica, cores()
    if asked != "auto" and int(asked) > there:
        raise ConfigurationError(
            f"cluster.cpus_per_replica={asked}: this process may use {there} cores; must be auto or at most {there}"
        )
    if config.gpus_per_replica > 0:
        _check_gpus(config)


def _check_gpus(config: ClusterConfig) -> None:
    gpus, build, each = _gpus(), version("torch"), config.gpus_per_replica
    replicas = 1 if config.name == "inline" or config.replicas == "auto" else int(config.replicas)
    if gpus == 0:
        raise ConfigurationError(
            f"cluster.gpus_per_replica={each:g}: this machine has no GPU that this process may use; leave it out to run on "
            "processors"
        )
    if build.endswith("+cpu"):
        raise ConfigurationError(
            f"cluster.gpus_per_replica={each:g}: torch {build} is a build without CUDA; install one with it or leave it out to "
            "run on processors"
        )
    if gpus is not None and gpu_places(gpus, each) < replicas:
        raise ConfigurationError(
            f"cluster.replicas={replicas} of cluster.gpus_per_replica={each:g}: this machine has {counted(gpus, 'GPU')}; must "
            f"be auto or at most {gpu_places(gpus, each)}"
        )


def _gpus() -> int | None:
    """Return the GPUs that Ray would count at its start; None if unknown, as Ray has no public function for that."""
    try:
        from ray._private.accelerators import get_accelerator_manager_for_resource
    except ImportError:
        return None
    manager = get_accelerator_manager_for_resource("GPU")
    if manager is None:
        return None
    visible = manager.get_current_process_visible_accelerator_ids()
    there = int(manager.get_current_node_num_accelerators())
    return there if visible is None else min(there, len(visible))
