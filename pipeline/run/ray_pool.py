"""Replicas as Ray actors: the only module that imports Ray.

It does not know what a worker does with a shard; it carries calls there and reports back.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import secrets
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

# Both are read when Ray is imported: no usage reports leave the machine, and no launcher's environment is made again.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# A replica without a GPU of its own must not see one; said here, since Ray warns that its default will change.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from pipeline.errors import ClusterLost, PromptmillError
from pipeline.run.config import ClusterConfig
from pipeline.run.replica import Replica, ReplicaDied
from pipeline.run.sizing import Demand, choose_sizing, cores
from pipeline.types import Progress, Shard, ShardReport
from pipeline.worker import Job, Worker

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 80 * 2**20
"""Only shards and reports pass through Ray, so its object store is as small as it may be."""
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

    def process(self, shard: Shard, attempt: int) -> ShardReport:
        if self._worker is None:
            raise RuntimeError("process before ready")
        return self._worker.submit(shard, attempt).result()

    def progress(self) -> Progress:
        return self._worker.progress() if self._worker is not None else Progress()


class RayReplica:
    """An actor, as dispatch sees it."""

    def __init__(self, name: str, actor: Any, facts: dict[str, Any]) -> None:
        """Wrap an actor that is ready."""
        self.name, self._actor, self.facts = name, actor, facts
        self._progress = Progress()
        self._asked: Any = None

    def submit(self, shard: Shard, attempt: int) -> Future[ShardReport]:
        """See `Replica.submit`."""
        result: Future[ShardReport] = Future()
        self._actor.process.remote(shard, attempt).future().add_done_callback(lambda f: _pass_on(f, result))
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


def _pass_on(source: Any, result: Future[ShardReport]) -> None:
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
    return ReplicaDied(_reason(error)) if isinstance(error, RayActorError) else error


def _reason(error: BaseException) -> str:
    """The telling line of Ray's many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "exit" in line.lower() or "reason" in line.lower() or "kill" in line.lower()]
    return (telling or lines or [type(error).__name__])[-1][:200]


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

    def start(self) -> list[Replica]:
        """See `ReplicaPool.start`."""
        _connect(self._config)
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
                each = f"{self._threads} CPU and {self._config.gpus_per_replica:g} GPU"
                have = {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}  # type: ignore[no-untyped-call]
                raise ClusterLost(
                    f"{len(ready)} of {needed} replicas started within "
                    f"cluster.start_timeout={self._config.start_timeout:g} s; "
                    f"each needs {each}, and free are {have or 'none'}"
                )
        return ready

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
                raise ClusterLost(
                    f"{name} died while its model was loading: {_reason(error)}; is there enough memory?"
                ) from None
            self._facts = facts
            ready.append(RayReplica(name, actor, facts))
        return ready

    def arrivals(self) -> list[Replica]:
        """See `ReplicaPool.arrivals`."""
        return self._take(timeout=0)

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
        if not ray.is_initialized():
            return
        for actor in self._actors.values():
            ray.kill(actor, no_restart=True)
        ray.shutdown()


def _logical_cpus(config: ClusterConfig) -> int:
    """What a Ray of our own is told to have: the cores, or more when more replicas were asked for by number."""
    asked = [value for value in (config.replicas, config.cpus_per_replica) if value != "auto"]
    return max(cores(), math.prod(map(int, asked)))


def _connect(config: ClusterConfig) -> None:
    """Start Ray on loopback for this job alone, or join the cluster at `address`."""
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    logging.getLogger("ray").setLevel(logging.ERROR)  # its level is ours to set when it does not configure logging
    try:
        if config.name == "existing":
            ray.init(address=config.address, namespace="promptmill", **quiet)
        else:
            # Ray guards a cluster with a token, which it would leave in the home directory; ours lasts as long as the job.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            ray.init(
                address="local", _node_ip_address=LOOPBACK, include_dashboard=False, num_cpus=_logical_cpus(config),
                object_store_memory=OBJECT_STORE_BYTES, **quiet,
            )  # fmt: skip
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        if isinstance(error, ConnectionError) and config.address == "auto":
            raise ClusterLost("cluster.address=auto: no Ray is running here; name the cluster's address") from error
        where = config.address or "this machine"
        raise ClusterLost(f"cluster.address={where}: Ray cannot be reached or started: {_reason(error)}") from error
    sys.stdout.flush()
