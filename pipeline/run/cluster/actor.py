"""A replica as a Ray actor: the worker in the actor's process, and its interface for dispatch."""

from __future__ import annotations

import os
import re
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.engine.libraries import preload
from pipeline.errors import DeviceFault, PromptmillError, WorkerFailed
from pipeline.run.cluster.connect import (
    ActorUnavailableError,
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    ray,
    reason,
)
from pipeline.run.cluster.nodes import nodes, this_node
from pipeline.run.dispatch.replica import ReplicaDied, ReplicaFailed, ReplicaLost
from pipeline.run.dispatch.sizing import Sizing
from pipeline.stages import now_doing
from pipeline.types import Progress, ShardReport, Task
from pipeline.work.job import Job

if TYPE_CHECKING:
    from pipeline.work.worker import Worker

CALLS = 4
"""Concurrent calls per replica: two shards, one progress query, and one spare."""
_NODE_GONE = re.compile(
    r"node (has )?(died|was terminated|is dead|was preempted|failed)|node.{0,80}(unreachable|drain)"
)


@dataclass(frozen=True, slots=True)
class Place:
    """The surroundings of a replica.

    Attributes:
        sizing: The number of replicas, and what each uses of its node.
        most: Most replicas in all; None: as many as fit, also on nodes that join later.
        home: The id of the driver's node.
        many: Whether there are other nodes; errors then name their node.
    """

    sizing: Sizing
    most: int | None
    home: str
    many: bool


def _environment(threads: int) -> dict[str, str]:
    """Return the environment variables of a replica; `jobs/console/launch.py` says why threads sleep soon."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "10000",
        "TOKENIZERS_PARALLELISM": "true",
    }


class ReplicaActor:
    """The worker in an actor's process. `ready` loads the model, so that errors reach the driver unchanged."""

    def __init__(self, job: Job, place: Place) -> None:
        """Keep the arguments, and set what torch and its libraries read when they are loaded, which is in `ready`.

        A runtime environment could set that, too, but Ray would start a process for it, and leave the waiting one unused.
        """
        os.environ.update(_environment(place.sizing.threads))
        preload()
        self._job, self._place = job, place
        self._worker: Worker | None = None

    def ready(self) -> dict[str, Any]:
        """Load the model, and return the facts about this replica."""
        from pipeline.work.worker import Worker  # late: torch's libraries are loaded meanwhile

        here = next(node for node in nodes(with_draining=True) if node.id == this_node())
        sizing = self._place.sizing
        room, most = sizing.fit(here.size), self._place.most
        together = max(1, room if most is None else min(room, most))  # replicas that share this node
        share = min(sizing.gpus, 1.0) if sizing.gpus > 0 else 1 / together
        try:
            if here.id != self._place.home:
                from pipeline.run.cluster.reach import check_reach  # late, as it brings in Arrow

                check_reach(self._job)
            self._worker = Worker(self._job, threads=sizing.threads, memory_share=share, work_share=1 / sizing.replicas)
        except PromptmillError as error:
            if not self._place.many:
                raise
            raise type(error)(f"on node {here.name}: {error}") from error
        return {**self._worker.facts, "pid": os.getpid(), "node": here.name, "node_id": here.id}

    def process(self, task: Task) -> ShardReport | None:
        """Do a task, and wait for it."""
        if self._worker is None:
            raise RuntimeError("process before ready")
        return self._worker.submit(task).result()

    def doing(self) -> str:
        """Return what this process is doing, and how far it is; for the time in which it loads the model."""
        return now_doing()

    def progress(self) -> Progress:
        """Return the worker's counters."""
        return self._worker.progress() if self._worker is not None else Progress()


class RayReplica:
    """The driver's handle of an actor; see `Replica`."""

    def __init__(self, name: str, actor: Any, facts: dict[str, Any]) -> None:
        """Wrap an actor that is ready."""
        self.name, self._actor, self.facts = name, actor, facts
        self.node: str = facts["node"]
        self._progress = Progress()
        self._asked: Any = None

    def submit(self, task: Task) -> Future[ShardReport | None]:
        """See `Replica.submit`."""
        result: Future[ShardReport | None] = Future()
        self._actor.process.remote(task).future().add_done_callback(lambda f: _pass_on(f, result))
        return result

    def progress(self) -> Progress:
        """Return the last answer, and send another query; see `Replica.progress`."""
        if self._asked is not None:
            done, _ = ray.wait([self._asked], timeout=0)
            if not done:
                return self._progress
            try:
                self._progress = ray.get(self._asked)
            except RayError:
                return self._progress  # dead or dying: dispatch learns of it through its shards
        self._asked = self._actor.progress.remote()
        return self._progress


def unwrap(error: BaseException) -> BaseException:
    """Turn Ray's exception about an actor into one of ours.

    What ends the job, such as a damaged input or a full disk, is returned as it is. An exception that nobody expected, or a
    fault of the device, is the death of its replica: another process may find its own device and memory in order.
    """
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, DeviceFault):
            return ReplicaDied(str(cause))
        if isinstance(cause, WorkerFailed):
            return ReplicaFailed(str(cause))
        if isinstance(cause, PromptmillError):
            return cause
        return ReplicaFailed(f"a replica ended in an exception: {type(cause).__name__}: {reason(cause)}")
    if isinstance(error, RayActorError):
        return (ReplicaLost if _is_of_the_cluster(error) else ReplicaDied)(reason(error))
    if isinstance(error, NodeDiedError | LocalRayletDiedError | OutOfMemoryError):
        # Ray's memory monitor ends the largest process of a node that runs out of memory, whatever the cause.
        return ReplicaLost(reason(error))
    return ReplicaDied(reason(error)) if isinstance(error, RayError) else error


def _pass_on(source: Any, result: Future[ShardReport | None]) -> None:
    """Copy the outcome of `source` to `result`, with Ray's exceptions turned into ours."""
    error = source.exception()
    if error is None:
        result.set_result(source.result())
    else:
        result.set_exception(unwrap(error))


def _is_of_the_cluster(error: RayActorError) -> bool:
    """Whether an actor is gone for a reason unrelated to its task: its node, or the network."""
    text = str(error).lower()
    return (
        error.preempted
        or isinstance(error, ActorUnavailableError)
        or ("node" in text and _NODE_GONE.search(text) is not None)
    )
