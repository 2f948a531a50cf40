"""Lists the nodes of a Ray cluster: their resources, and which of them are about to leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.run.cluster.connect import ray
from pipeline.run.dispatch.sizing import Node


@dataclass(frozen=True, slots=True)
class RayNode:
    """A live node: its id, its display name, and its resources."""

    id: str
    name: str
    size: Node


def nodes(*, with_draining: bool = False) -> list[RayNode]:
    """Return the live nodes; those that are about to leave only with `with_draining`."""
    leaving = set() if with_draining else draining()
    return [
        RayNode(node["NodeID"], _name(node), _size(node["Resources"]))
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and node["NodeID"] not in leaving
    ]


def draining() -> set[str]:
    """Return the ids of nodes that are known to leave soon: preempted, or scaled down.

    Ray has no public function for this. With a Ray version of other internals, nodes leave without notice.
    """
    state: Any = getattr(getattr(getattr(ray, "_private", None), "state", None), "state", None)
    return set(state.get_draining_nodes()) if hasattr(state, "get_draining_nodes") else set()


def this_node() -> str:
    """Return the id of this process's node."""
    return str(ray.get_runtime_context().get_node_id())


def _name(node: dict[str, Any]) -> str:
    host, address = node.get("NodeManagerHostname"), node.get("NodeManagerAddress")
    return f"{host} ({address})" if host and host != address else str(address)


def _size(resources: dict[str, float]) -> Node:
    memory = resources.get("memory")
    return Node(int(resources.get("CPU", 0)), resources.get("GPU", 0.0), None if memory is None else int(memory))
