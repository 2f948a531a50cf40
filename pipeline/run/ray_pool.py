"""Replicas as Ray actors.

It does not know what a worker does with a shard; it carries calls there and reports back.
"""

from __future__ import annotations

import atexit
import itertools
import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pipeline.errors import ClusterLost, PromptmillError
from pipeline.run.config import ClusterConfig
from pipeline.run.guardian import Guardian
from pipeline.run.ray_cluster import (
    ActorUnavailableError,
    Head,
    RayActorError,
    RayError,
    RayTaskError,
    connect,
    ray,
    reason,
)
from pipeline.run.replica import Replica, ReplicaDied, ReplicaLost
from pipeline.run.sizing import Demand, choose_sizing
from pipeline.types import Progress, ShardReport, Task
from pipeline.worker import Job, Worker

_NODE_GONE = re.compile(
    r"node (has )?(died|was terminated|is dead|was preempted|failed)|node.{0,80}(unreachable|drain)"
)

LOOK_SECONDS = 3.0
"""Seconds between two looks whether the cluster's head answers, and whether nodes have joined."""
HEAD_SECONDS = 15.0
"""Seconds of silence after which the head counts as lost: Ray itself would wait for minutes, in every call."""
CLOSE_SECONDS = 8.0
"""Seconds that Ray has to shut down; what it leaves after that is ended by the guardian, or with this process."""
FAILED_STARTS = 3
"""Replicas in a row that may die while their model is loading."""
CALLS = 4
"""Calls that a replica takes at a time: two shards, one look at its progress, one to spare."""


class _Actor:
    """The worker in an actor's process. The model is loaded by `ready`, so that its errors come back as they are."""

    def __init__(self, job: Job, threads: int, memory_share: float) -> None:
        self._arguments = job, threads, memory_share
        self._worker: Worker | None = None

    def ready(self) -> dict[str, Any]:
        job, threads, memory_share = self._arguments
        self._worker = Worker(job, threads=threads, memory_share=memory_share)
        return {**self._worker.facts, "pid": os.getpid(), "node": ray.util.get_node_ip_address()}  # type: ignore[no-untyped-call]

    def process(self, task: Task) -> ShardReport | None:
        if self._worker is None:
            raise RuntimeError("process before ready")
        return self._worker.submit(task).result()

    def progress(self) -> Progress:
        return self._worker.progress() if self._worker is not None else Progress()


class RayReplica:
    """An actor, as dispatch sees it."""

    def __init__(self, name: str, actor: Any, facts: dict[str, Any]) -> None:
        """Wrap an actor that is ready."""
        self.name, self._actor, self.facts = name, actor, facts
        self._progress = Progress()
        self._asked: Any = None

    def submit(self, task: Task) -> Future[ShardReport | None]:
        """See `Replica.submit`."""
        result: Future[ShardReport | None] = Future()
        self._actor.process.remote(task).future().add_done_callback(lambda f: _pass_on(f, result))
        return result

    def progress(self) -> Progress:
        """See `Replica.progress`: the last answer, and another question on its way."""
        if self._asked is not None:
            done, _ = ray.wait([self._asked], timeout=0)
            if not done:
                return self._progress
            try:
                self._progress = ray.get(self._asked)
            except RayError:
                return self._progress  # dead or dying: dispatch hears of it through its shards
        self._asked = self._actor.progress.remote()
        return self._progress


def _pass_on(source: Any, result: Future[ShardReport | None]) -> None:
    """Settle `result` as `source` is settled, with Ray's exceptions turned into ours."""
    error = source.exception()
    if error is None:
        result.set_result(source.result())
    else:
        result.set_exception(_unwrap(error))


def _unwrap(error: BaseException) -> BaseException:
    if isinstance(error, RayTaskError):
        cause = error.cause
        return cause if isinstance(cause, PromptmillError) else error
    if isinstance(error, RayActorError):
        return (ReplicaLost if _is_of_the_cluster(error) else ReplicaDied)(reason(error))
    return error


def _is_of_the_cluster(error: RayActorError) -> bool:
    """Whether an actor is gone for a reason that has nothing to do with what it did: its node, or a network."""
    text = str(error).lower()
    return (
        error.preempted
        or isinstance(error, ActorUnavailableError)
        or ("node" in text and _NODE_GONE.search(text) is not None)
    )


class RayPool:
    """Replicas on a Ray that is started for this job, or on a cluster that is there.

    Args:
        job: What the workers make.
        config: Where, and how many.
        demand: What there is to do.
        note: Tells the person who waits what is going on.
    """

    def __init__(self, job: Job, config: ClusterConfig, demand: Demand, note: Callable[[str], None]) -> None:
        """Remember what to start; `start` starts it."""
        self._job, self._config, self._demand, self._note = job, config, demand, note
        self._wanted = self._threads = 0
        self._numbers = itertools.count()
        self._starting: dict[Any, tuple[str, Any]] = {}
        self._actors: dict[str, Any] = {}
        self._facts: dict[str, Any] = {}
        self._guardian: Guardian | None = None
        self._failed_starts = 0
        self._looked = self._last_alive = time.monotonic()

    def start(self) -> list[Replica]:
        """See `ReplicaPool.start`."""
        if self._config.name == "local":
            self._guardian = Guardian()
        connect(self._config, self._guardian.folder if self._guardian else None)
        self._head = Head(ray.get_runtime_context().gcs_address)
        there = ray.cluster_resources()  # type: ignore[no-untyped-call]
        cpus, gpus = int(there.get("CPU", 1)), there.get("GPU", 0.0)
        sizing = choose_sizing(self._config, self._demand, total_cpus=cpus, total_gpus=gpus)
        self._wanted, self._threads = sizing.replicas, sizing.threads
        self._note(f"starting {sizing}")
        job = ray.put(self._job)
        threads = {
            "OMP_NUM_THREADS": str(self._threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "GOMP_SPINCOUNT": "10000",
            "TOKENIZERS_PARALLELISM": "true",
        }
        self._remote = ray.remote(_Actor).options(
            num_cpus=self._threads, num_gpus=self._config.gpus_per_replica, max_concurrency=CALLS, max_restarts=0,
            runtime_env={"env_vars": threads},
        )  # fmt: skip
        self._job_ref = job
        for _ in range(self._wanted):
            self._launch()
        needed = min(self._config.min_replicas, self._wanted)
        ready: list[Replica] = []
        deadline = time.monotonic() + self._config.start_timeout
        while len(ready) < needed:
            ready += self._take(timeout=0.5)
            if time.monotonic() > deadline:
                raise self._never_came(len(ready), needed)
        return ready

    def _never_came(self, ready: int, needed: int) -> ClusterLost:
        each = f"{self._threads} CPU and {self._config.gpus_per_replica:g} GPU"
        have = {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}  # type: ignore[no-untyped-call]
        return ClusterLost(
            f"{ready} of {needed} replicas started within cluster.start_timeout={self._config.start_timeout:g} s; "
            f"each needs {each}, and free are {have or 'none'}"
        )

    def _launch(self) -> None:
        name = f"replica-{next(self._numbers)}"
        actor: Any = self._remote.remote(self._job_ref, self._threads, 1.0 / self._wanted)
        self._actors[name] = actor
        self._starting[actor.ready.remote()] = name, actor

    def _take(self, timeout: float) -> list[Replica]:
        """Replicas whose model is loaded by now."""
        if not self._starting:
            return []
        done, _ = ray.wait(list(self._starting), num_returns=len(self._starting), timeout=timeout)
        ready: list[Replica] = []
        for reference in done:
            name, actor = self._starting.pop(reference)
            try:
                facts = ray.get(reference)
            except RayTaskError as error:
                raise _unwrap(error) from None
            except RayActorError as error:
                self._start_again(name, error)
                continue
            self._failed_starts = 0
            self._facts = facts
            ready.append(RayReplica(name, actor, facts))
        return ready

    def _start_again(self, name: str, error: RayActorError) -> None:
        """Start another in place of one that died while its model was loading: once may be chance, or its node's end.

        Raises:
            ClusterLost: If that happens again and again.
        """
        del self._actors[name]
        self._failed_starts += 1
        if self._failed_starts >= FAILED_STARTS:
            raise ClusterLost(
                f"{self._failed_starts} replicas in a row died while their model was loading: {reason(error)}; is there "
                "enough memory?"
            ) from None
        self._launch()

    def arrivals(self) -> list[Replica]:
        """See `ReplicaPool.arrivals`.

        Raises:
            ClusterLost: If no replica has been there for `cluster.start_timeout`.
        """
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            if self._head.answers():
                self._grow()
            elif self._head.silent_seconds > HEAD_SECONDS:
                raise ClusterLost(
                    f"the head of the cluster at {self._head.address} has not answered for {HEAD_SECONDS:g} s"
                )
        arrived = self._take(timeout=0)
        if arrived or len(self._actors) > len(self._starting):
            self._last_alive = now
        elif now - self._last_alive > self._config.start_timeout:
            raise self._never_came(0, 1)
        return arrived

    def _grow(self) -> None:
        """Start more replicas where nodes have joined a cluster of which all may be used."""
        if self._config.name != "existing" or self._config.replicas != "auto":
            return
        there = ray.cluster_resources()  # type: ignore[no-untyped-call]
        fit = int(there.get("CPU", 0)) // self._threads
        if self._config.gpus_per_replica > 0:
            fit = min(fit, int(there.get("GPU", 0.0) / self._config.gpus_per_replica))
        for _ in range(min(fit, self._demand.shards) - len(self._actors)):
            self._launch()

    def bury(self, replica: Replica) -> None:
        """See `ReplicaPool.bury`."""
        ray.kill(self._actors.pop(replica.name), no_restart=True)
        self._launch()

    def pending(self) -> int:
        """See `ReplicaPool.pending`."""
        return len(self._starting)

    def facts(self) -> dict[str, Any]:
        """See `ReplicaPool.facts`."""
        return {k: v for k, v in self._facts.items() if k not in ("pid", "node")} | {"replicas": self._wanted}

    def close(self) -> None:
        """See `ReplicaPool.close`: a Ray of our own ends with everything in it."""
        # Where the head is lost, each of Ray's calls may wait for minutes: they must not hold up the end of the job.
        closing = threading.Thread(target=self._shut_down, name="close", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            atexit.unregister(ray.shutdown)
        if self._guardian is not None:
            self._guardian.close()

    def _shut_down(self) -> None:
        if ray.is_initialized():
            for actor in self._actors.values():
                ray.kill(actor, no_restart=True)
            ray.shutdown()
