"""How many replicas, and how many threads and how much memory each, when the configuration says `auto`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.machine import available_bytes
from pipeline.wording import counted
from pipeline.work.config import CORES_A_REPLICA, ClusterConfig, bytes_of

MEMORY_FACTOR = 2.0
"""Memory that a replica is expected to take, over its weights: as much again for the cache and a step's tensors."""
PROCESS_BYTES = 2**30
"""Memory that a replica takes beside that: Python, torch and what it reads and writes."""
USED = 0.9
"""Share of the cores that could be used that must be, before more threads for a replica are worth it."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What there is to do: shards left, and the size of the model's weights in bytes."""

    shards: int
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Node:
    """A machine for replicas: its processors and GPUs, and its memory in bytes if that is known."""

    cpus: int
    gpus: float = 0.0
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Sizing:
    """How many replicas, and what each takes of its node: processor threads, GPUs, and memory in bytes."""

    replicas: int
    threads: int
    gpus: float = 0.0
    memory: int = 0

    def __str__(self) -> str:
        """As a person would say it."""
        return f"{counted(self.replicas, 'replica')}, {counted(self.threads, 'thread')} each"

    def fit(self, node: Node) -> int:
        """How many replicas a node holds."""
        return _fit(node, self.threads, self.gpus, self.memory)


def choose_sizing(config: ClusterConfig, demand: Demand, nodes: Sequence[Node]) -> Sizing:
    """Resolve `auto`.

    One replica a GPU where GPUs are asked for; else one for every CORES_A_REPLICA cores, no more than memory holds; never
    more than there are shards. On this machine, the cores are shared evenly among them; on a cluster, a replica has as many
    as leave few cores of any node idle.

    Args:
        config: What was asked.
        demand: What there is to do.
        nodes: What there is: one node, or those of a cluster.
    """
    if config.name == "existing":
        return _on_a_cluster(config, demand, nodes)
    (node,) = nodes
    if config.name == "inline":
        return Sizing(1, node.cpus if config.cpus_per_replica == "auto" else int(config.cpus_per_replica))
    if config.replicas != "auto":
        replicas = int(config.replicas)
    elif config.gpus_per_replica > 0:
        replicas = _gpu_places(node.gpus, config.gpus_per_replica)
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
        # How many replicas there is room for, by the threads that each has.
        room = {t: sum(_fit(node, t, gpus, memory) for node in nodes) for t in range(1, max(1, most) + 1)}
        threads = _threads(config, room)
    room_for = sum(_fit(node, threads, gpus, memory) for node in nodes)
    replicas = room_for if config.replicas == "auto" else int(config.replicas)
    return Sizing(max(1, min(replicas, demand.shards)), threads, gpus, memory)


def _threads(config: ClusterConfig, room: dict[int, int]) -> int:
    """The most threads with which there is room for what was asked, or, for `auto`, with which few cores are idle."""
    if config.replicas != "auto":
        return max((t for t, replicas in room.items() if replicas >= int(config.replicas)), default=1)
    if config.gpus_per_replica > 0:  # the GPUs do the work
        return max(t for t, replicas in room.items() if replicas == max(room.values()))
    best = max(t * replicas for t, replicas in room.items())
    return max(t for t, replicas in room.items() if t * replicas >= USED * best)


def _memory_of(config: ClusterConfig, demand: Demand) -> int:
    if config.memory_per_replica != "auto":
        return bytes_of(config.memory_per_replica)
    factor = 1.0 if config.gpus_per_replica > 0 else MEMORY_FACTOR  # on a GPU, weights only pass through
    return int(factor * demand.weight_bytes) + PROCESS_BYTES


def _fit(node: Node, threads: int, gpus: float, memory: int) -> int:
    fits = node.cpus // threads
    if gpus > 0:
        fits = min(fits, _gpu_places(node.gpus, gpus))
    if memory > 0 and node.memory is not None:
        fits = min(fits, node.memory // memory)
    return fits


def _gpu_places(gpus: float, each: float) -> int:
    """How many replicas a node's GPUs take: a share of a GPU lies on one GPU, as Ray has it."""
    return int(gpus) * int(1 / each + 1e-9) if each < 1 else int(gpus / each)
