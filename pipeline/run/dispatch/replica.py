"""Defines the interfaces of a replica and a pool of them, and implements the replica that is this process.

The replicas on Ray are in `pipeline/run/cluster`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.errors import ClusterLost
from pipeline.machine import cores
from pipeline.run.dispatch.sizing import Demand, Node, choose_sizing
from pipeline.stages import now_doing
from pipeline.types import Progress, ShardReport, Task
from pipeline.work.config import ClusterConfig
from pipeline.work.job import Job

if TYPE_CHECKING:
    from pipeline.work.worker import Worker


class ReplicaDied(Exception):
    """The process of a replica is gone; its tasks are retried on others.

    `counts`: whether its tasks may be the cause.
    """

    counts = True


class ReplicaFailed(ReplicaDied):
    """A replica ended in an exception that no row explains: its process or machine is at fault, or the job."""


class ReplicaHung(ReplicaDied):
    """A replica has work and makes no progress; its process is ended."""


class ReplicaLost(ReplicaDied):
    """A replica is gone with its node, or the cluster took it away."""

    counts = False


class Replica(Protocol):
    """A worker, wherever it runs, with its name and its node's."""

    name: str
    node: str

    def submit(self, task: Task) -> Future[ShardReport | None]:
        """Start on a task; the future gives a part's report, or None for a trial that the replica survived.

        It raises `ReplicaDied` when the replica's process ends before that.
        """

    def progress(self) -> Progress:
        """Return the latest known counters, without waiting."""


class ReplicaPool(Protocol):
    """Starts replicas and replaces those that die."""

    def start(self) -> list[Replica]:
        """Start, and return the replicas that are ready: at least one.

        Raises:
            ClusterLost: If too few become ready in time.
        """

    def arrivals(self, unfinished: int) -> list[Replica]:
        """Return the replicas that became ready since the last call; do not wait.

        Args:
            unfinished: Shards in flight or waiting: more replicas than that would have no work.
        """

    def leaving(self) -> set[str]:
        """Return the names of replicas whose node will leave soon."""

    def replace(self, replica: Replica) -> None:
        """Drop a dead replica and start another in its place."""

    def pending(self) -> int:
        """Return how many replicas are starting."""

    def doing(self) -> str:
        """Return what the replicas that are starting do now; empty if unknown."""

    def facts(self) -> dict[str, Any]:
        """Return facts about the replicas' machines, for the manifest."""

    def close(self) -> None:
        """Stop all replicas, and whatever was started for them."""


class InlineReplica:
    """The worker in this process."""

    name = "inline"

    def __init__(self, worker: Worker) -> None:
        """Wrap a running worker."""
        self._worker, self.node = worker, platform.node()

    def submit(self, task: Task) -> Future[ShardReport | None]:
        """See `Replica.submit`."""
        return self._worker.submit(task)

    def progress(self) -> Progress:
        """See `Replica.progress`."""
        return self._worker.progress()


class InlinePool:
    """One replica, in this process, without Ray."""

    def __init__(self, job: Job, config: ClusterConfig, note: Callable[[str], None]) -> None:
        """Keep the arguments; `note` shows a line of progress."""
        self._job, self._note = job, note
        self._sizing = choose_sizing(config, Demand(1, 0), [Node(cores())])
        self._worker: Worker | None = None

    def start(self) -> list[Replica]:
        """See `ReplicaPool.start`."""
        from pipeline.work.worker import Worker  # late: on Ray it runs in other processes

        self._note(f"loading the model for {self._sizing}")
        self._worker = Worker(self._job, threads=self._sizing.threads)
        return [InlineReplica(self._worker)]

    def arrivals(self, unfinished: int) -> list[Replica]:
        """None: there is only the one."""
        return []

    def leaving(self) -> set[str]:
        """None: if this machine goes, so does the job."""
        return set()

    def replace(self, replica: Replica) -> None:
        """Give up: a hung replica in this process cannot be ended alone.

        Raises:
            ClusterLost: Always.
        """
        raise ClusterLost(
            "a row hangs the model, and cluster=inline cannot stop it; run the same command again to isolate the row, or use "
            "cluster=local, which replaces a replica that hangs"
        )

    def pending(self) -> int:
        """See `ReplicaPool.pending`."""
        return 0

    def doing(self) -> str:
        """See `ReplicaPool.doing`."""
        return now_doing()

    def facts(self) -> dict[str, Any]:
        """See `ReplicaPool.facts`."""
        return {**self._worker.facts, "replicas": 1} if self._worker is not None else {}

    def close(self) -> None:
        """See `ReplicaPool.close`."""
        if self._worker is not None:
            self._worker.close()
