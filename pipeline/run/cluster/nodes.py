"""The nodes of a Ray cluster: what each has for replicas, and which are about to leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.run.cluster.connect import ray
from pipeline.run.dispatch.sizing import Node


@dataclass(frozen=True, slots=True)
class RayNode:
    """A node that is alive: its id, its name for people, and what it has."""

    id: str
    name: str
    size: Node


def nodes(*, with_draining: bool = False) -> list[RayNode]:
    """The nodes that are alive, without those that are about to leave unless they are asked for."""
    leaving = set() if with_draining else draining()
    return [
        RayNode(node["NodeID"], _name(node), _size(node["Resources"]))
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and node["NodeID"] not in leaving
    ]


def draining() -> set[str]:
    """The ids of nodes of which it is known that they will be taken away: preempted, or scaled down.

    Ray tells it nowhere in public. Where its inner parts are built otherwise, nodes are taken to leave without notice.
    """
    state: Any = getattr(getattr(getattr(ray, "_private", None), "state", None), "state", None)
    return set(state.get_draining_nodes()) if hasattr(state, "get_draining_nodes") else set()


def this_node() -> str:
    """The id of the node that this process is on."""
    return str(ray.get_runtime_context().get_node_id())


def _name(node: dict[str, Any]) -> str:
    host, address = node.get("NodeManagerHostname"), node.get("NodeManagerAddress")
    return f"{host} ({address})" if host and host != address else str(address)


def _size(resources: dict[str, float]) -> Node:
    memory = resources.get("memory")
    return Node(int(resources.get("CPU", 0)), resources.get("GPU", 0.0), None if memory is None else int(memory))
