"""Resolves `auto`: how many replicas, and how many threads and how much memory each of them has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.machine import available_bytes
from pipeline.wording import counted
from pipeline.work.config import CORES_A_REPLICA, ClusterConfig, bytes_of

MEMORY_FACTOR = 2.0
"""Expected memory of a replica, relative to its weights: as much again for the cache and a step's tensors."""
PROCESS_BYTES = 2**30
"""Further memory of a replica: Python, torch, and its input and output buffers."""
USED = 0.9
"""Least share of the usable cores that must stay in use for more threads per replica to be worth it."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The work: number of shards left, and the size of the model's weights in bytes."""

    shards: int
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Node:
    """A machine for replicas: its cores and GPUs, and its memory in bytes, if known."""

    cpus: int
    gpus: float = 0.0
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Sizing:
    """The number of replicas, and what each uses of its node: CPU threads, GPUs, and memory in bytes."""

    replicas: int
    threads: int
    gpus: float = 0.0
    memory: int = 0

    def __str__(self) -> str:
        """Return the text for messages."""
        return f"{counted(self.replicas, 'replica')}, {counted(self.threads, 'thread')} each"

    def fit(self, node: Node) -> int:
        """Return how many replicas fit on a node."""
        return _fit(node, self.threads, self.gpus, self.memory)


def choose_sizing(config: ClusterConfig, demand: Demand, nodes: Sequence[Node]) -> Sizing:
    """Resolve `auto`.

    With GPUs, one replica per GPU; otherwise one per CORES_A_REPLICA cores, as far as memory allows; never more than there
    are shards. On this machine, the replicas share the cores evenly; on a cluster, the threads per replica are chosen so that
    few cores of any node stay idle.

    Args:
        config: The options of the cluster.
        demand: The work.
        nodes: This machine, or the nodes of a cluster.
    """
    if config.name == "existing":
        return _on_a_cluster(config, demand, nodes)
    (node,) = nodes
    if config.name == "inline":
        return Sizing(1, node.cpus if config.cpus_per_replica == "auto" else int(config.cpus_per_replica))
    if config.replicas != "auto":
        replicas = int(config.replicas)
    elif config.gpus_per_replica > 0:
        replicas = gpu_places(node.gpus, config.gpus_per_replica)
    else:
        size = CORES_A_REPLICA if config.cpus_per_replica == "auto" else int(config.cpus_per_replica)
        replicas = node.cpus // size
        available = available_bytes()
        if available is not None and demand.weight_bytes:
            replicas = min(replicas, int(available / (MEMORY_FACTOR * demand.weight_bytes)))
    replicas = max(1, min(replicas, demand.shards))
    threads = max(1, node.cpus // replicas) if config.cpus_per_replica == "auto" else int(config.cpus_per_replica)
    return Sizing(replicas, threads, config.gpus_per_replica)


def _on_a_cluster(config: ClusterConfig, demand: Demand, nodes: Sequence[Node]) -> Sizing:
    gpus, memory = config.gpus_per_replica, _memory_of(config, demand)
    if config.cpus_per_replica != "auto":
        threads = int(config.cpus_per_replica)
    else:
        most = min(CORES_A_REPLICA, max((node.cpus for node in nodes), default=1))
        # How many replicas fit, by the threads that each has.
        room = {t: sum(_fit(node, t, gpus, memory) for node in nodes) for t in range(1, max(1, most) + 1)}
        threads = _threads(config, room)
    room_for = sum(_fit(node, threads, gpus, memory) for node in nodes)
    replicas = room_for if config.replicas == "auto" else int(config.replicas)
    return Sizing(max(1, min(replicas, demand.shards)), threads, gpus, memory)


def _threads(config: ClusterConfig, room: dict[int, int]) -> int:
    """Return the most threads with which the configured replicas fit, or, for `auto`, with which few cores stay idle."""
    if config.replicas != "auto":
        return max((t for t, replicas in room.items() if replicas >= int(config.replicas)), default=1)
    if config.gpus_per_replica > 0:  # the GPUs do the work
        return max(t for t, replicas in room.items() if replicas == max(room.values()))
    best = max(t * replicas for t, replicas in room.items())
    return max(t for t, replicas in room.items() if t * replicas >= USED * best)


def _memory_of(config: ClusterConfig, demand: Demand) -> int:
    if config.memory_per_replica != "auto":
        return bytes_of(config.memory_per_replica)
    factor = 1.0 if config.gpus_per_replica > 0 else MEMORY_FACTOR  # with a GPU, the weights only pass through the host
    return int(factor * demand.weight_bytes) + PROCESS_BYTES


def _fit(node: Node, threads: int, gpus: float, memory: int) -> int:
    fits = node.cpus // threads
    if gpus > 0:
        fits = min(fits, gpu_places(node.gpus, gpus))
    if memory > 0 and node.memory is not None:
        fits = min(fits, node.memory // memory)
    return fits


def gpu_places(gpus: float, each: float) -> int:
    """Return how many replicas a node's GPUs hold, of which each takes a fraction of one GPU, or all of it."""
    return int(gpus) * int(1 / each + 1e-9)
