"""Checks that this machine has the cores and GPUs that a job without a cluster asks for, before anything starts."""

from __future__ import annotations

from pipeline.errors import ConfigurationError
from pipeline.machine import cores
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
    if config.name == "inline" or config.gpus_per_replica == 0:
        return  # inline: torch reports it when it loads the model
    gpus = _gpus()
    if gpus is not None and config.gpus_per_replica > gpus:
        raise ConfigurationError(
            f"cluster.gpus_per_replica={config.gpus_per_replica:g}: this machine has {gpus} GPUs that Ray would see; leave it "
            "out to run on processors"
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
