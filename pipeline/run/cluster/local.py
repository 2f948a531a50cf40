"""Starts a Ray on this machine for one job: quickly, and also where other work leaves little of the processor."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import ray as ray
from ray._private.node import Node
from ray._private.state import GlobalState

logger = logging.getLogger(__name__)

Started = TypeVar("Started")

LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 80 * 2**20
"""Bytes of Ray's object store, the least it accepts, because only shards and reports pass through Ray."""
SERVERS = ("start_api_server", "start_log_monitor", "start_monitor")
"""What starts the dashboard and its job API, the printing of workers' logs, and the autoscaler."""
STARTS = 6
"""How often Ray is started until a node of it lives."""
NODE_SECONDS = 120.0
"""Seconds for Ray's node to appear before Ray looks for it in its own way, which gives up after 30 more and says what is
missing: 30 alone are too few on a machine with much other work."""


class NodeEnded(Exception):
    """Ray's node ended before it was ready."""


def start_local(cpus: int, folder: str | None, options: Mapping[str, Any]) -> None:
    """Start Ray on loopback, with its files in `folder`.

    Raises:
        NodeEnded: If it ended each time.
        Exception: Any of Ray's and its libraries'.
    """
    # Ray protects a cluster with a token, which it leaves in the home directory; ours lives as long as the job.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Ray gives its workers a niceness of 15: beside programs that compute, they would have a thirtieth of such a one's share.
    os.environ.setdefault("RAY_worker_niceness", "0")
    until_it_lives(
        lambda: ray.init(
            address="local", _node_ip_address=LOOPBACK, include_dashboard=False, num_cpus=cpus,
            object_store_memory=OBJECT_STORE_BYTES, _temp_dir=folder, **options,
        )
    )  # fmt: skip


def until_it_lives(start: Callable[[], Started], starts: int = STARTS) -> Started:
    """Call what starts a node of Ray, quickly, and again where the node's raylet ends.

    A raylet ends when its agents have not told it within 15 seconds which ports they took, which is too short where each
    process gets a tenth of a core, and no option of Ray's changes that. The next time, what the agents import is compiled
    and in memory.

    Args:
        start: Starts it.
        starts: How often, at the most.

    Raises:
        NodeEnded: If it ended each time.
        Exception: Any of `start`.
    """
    for number in range(2, starts + 1):
        try:
            with _quick_start():
                return start()
        except NodeEnded as error:
            logger.warning("%s; Ray is started again (%d of %d)", error, number, starts)
    with _quick_start():
        return start()


@contextlib.contextmanager
def _quick_start() -> Iterator[None]:
    """Within it, Ray starts in less than two thirds of the time: without what serves people and larger clusters.

    `include_dashboard=False` leaves out only the pages of the API server and waits for it. Ray also looks only once a second
    whether its node is there, which is done more often here before.

    Raises:
        NodeEnded: If the node's raylet ends before the node is ready; what belongs to it is stopped then.
    """
    node: Any = Node
    state: Any = GlobalState
    look: Any = getattr(state, "get_node", None)
    start_raylet: Any = getattr(node, "start_raylet", None)
    started: list[Any] = []
    agents = _Agents()

    def start_nothing(node: Any, **_: object) -> None:
        node._webui_url = ""

    def start_and_note(node: Any, *arguments: Any, **named: Any) -> Any:
        started.append(node)
        return start_raylet(node, *arguments, **named)

    def check() -> None:
        raylets = started[-1].all_processes.get("raylet", ()) if started else ()
        for raylet in raylets:
            agents.note(raylet.process.pid)
        if any(raylet.process.poll() is not None for raylet in raylets):
            started[-1].kill_all_processes(check_alive=False, allow_graceful=False)
            agents.end()
            raise NodeEnded("Ray's raylet ended before its node was ready, as on a very busy machine")

    ours: list[tuple[Any, str, Callable[..., Any]]] = [
        *((node, name, start_nothing) for name in SERVERS), (node, "start_raylet", start_and_note),
        (state, "get_node", patiently(look, NODE_SECONDS, check)),
    ]  # fmt: skip
    quick = [
        (kind, name, function) for kind, name, function in ours if hasattr(kind, name)
    ]  # another Ray may lack some
    own = [(kind, name, getattr(kind, name)) for kind, name, _ in quick]
    for kind, name, function in quick:
        setattr(kind, name, function)
    try:
        yield
    finally:
        agents.forget()
        for kind, name, function in own:
            setattr(kind, name, function)


class _Agents:
    """The two agents of a raylet, which notice its end only when they are ready, and slow the next start down until then."""

    def __init__(self) -> None:
        """Know none."""
        self._held: dict[int, int] = {}  # the descriptor of a process speaks of that one for ever, its number does not

    def note(self, raylet: int) -> None:
        """Look whether a raylet has started them."""
        if len(self._held) == 2 or not hasattr(os, "pidfd_open"):
            return
        with contextlib.suppress(OSError):  # a thread, the raylet, or what it started has ended meanwhile
            for file in Path(f"/proc/{raylet}/task").glob("*/children"):
                for pid in map(int, file.read_text().split()):
                    if pid not in self._held:
                        self._held[pid] = os.pidfd_open(pid)

    def end(self) -> None:
        """Kill them."""
        for descriptor in self._held.values():
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)

    def forget(self) -> None:
        """Let go of their descriptors."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()


def patiently(look: Callable[[Any, str], Any], seconds: float, check: Callable[[], None]) -> Callable[[Any, str], Any]:
    """Return Ray's function that looks for a node, with this many seconds before it for the node to appear.

    Args:
        look: Ray's function.
        seconds: How long to wait.
        check: Called again and again meanwhile.
    """

    def get_node(state: Any, node_id: str) -> Any:
        end = time.monotonic() + seconds
        while not any(node.get("NodeID") == node_id for node in state.node_table()) and time.monotonic() < end:
            check()
            time.sleep(0.02)
        return look(state, node_id)

    return get_node
