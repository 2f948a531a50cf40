"""How many replicas, and how many threads each, when the configuration says `auto`.

It does not know Ray; it is told what there is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipeline.engine.memory import available_bytes
from pipeline.run.config import ClusterConfig
from pipeline.run.progress import counted

CORES_A_REPLICA = 8
"""More threads than this share a decoding step badly: its products have few rows."""
MEMORY_FACTOR = 2.0
"""Memory that a replica is expected to take, over its weights: as much again for the cache and a step's tensors."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What there is to do: shards left, and the size of the model's weights in bytes."""

    shards: int
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Sizing:
    """Replicas and processor threads of each."""

    replicas: int
    threads: int

    def __str__(self) -> str:
        """As a person would say it."""
        return f"{counted(self.replicas, 'replica')}, {counted(self.threads, 'thread')} each"


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_sizing(config: ClusterConfig, demand: Demand, *, total_cpus: int, total_gpus: float = 0) -> Sizing:
    """Resolve `auto`.

    One replica a GPU where GPUs are asked for; else one for every CORES_A_REPLICA cores, no more than memory holds; never
    more than there are shards. The cores are shared evenly among them.

    Args:
        config: What was asked.
        demand: What there is to do.
        total_cpus: Cores there are, on this machine or the cluster.
        total_gpus: GPUs there are.
    """
    if config.name == "inline":
        return Sizing(1, total_cpus if config.cpus_per_replica == "auto" else int(config.cpus_per_replica))
    if config.replicas != "auto":
        replicas = int(config.replicas)
    elif config.gpus_per_replica > 0:
        replicas = int(total_gpus / config.gpus_per_replica)
    else:
        size = CORES_A_REPLICA if config.cpus_per_replica == "auto" else int(config.cpus_per_replica)
        replicas = total_cpus // size
        available = available_bytes()
        if config.name == "local" and available is not None and demand.weight_bytes:
            replicas = min(replicas, int(available / (MEMORY_FACTOR * demand.weight_bytes)))
    replicas = max(1, min(replicas, demand.shards))
    if config.cpus_per_replica != "auto":
        return Sizing(replicas, int(config.cpus_per_replica))
    threads = max(1, total_cpus // replicas)
    # of a cluster's cores no more than one node may have
    return Sizing(replicas, min(threads, CORES_A_REPLICA) if config.name == "existing" else threads)
