"""The pool of replicas on Ray: as many as configured, or as fit, on all suitable nodes, and more when nodes join."""

from __future__ import annotations

import atexit
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

from pipeline.errors import ClusterLost, PromptmillError, WorkerFailed
from pipeline.run.cluster.actor import CALLS, Place, RayReplica, ReplicaActor, unwrap
from pipeline.run.cluster.connect import Head, RayError, RayTaskError, RuntimeEnvSetupError, connect, ray, reason
from pipeline.run.cluster.guardian import Guardian
from pipeline.run.cluster.nodes import draining, nodes, this_node
from pipeline.run.dispatch.replica import Replica, ReplicaDied, ReplicaFailed, ReplicaLost
from pipeline.run.dispatch.sizing import Demand, choose_sizing
from pipeline.work.config import ClusterConfig
from pipeline.work.job import Job

LOOK_SECONDS = 3.0
"""Seconds between checks that the cluster's head answers, and which nodes have joined or are leaving."""
HEAD_SECONDS = 15.0
"""Seconds without an answer after which the head counts as lost; Ray itself would wait for minutes in every call."""
CLOSE_SECONDS = 8.0
"""Seconds for Ray to shut down; the guardian, or the end of this process, ends what is left."""
FAILED_STARTS = 3
"""Most consecutive replicas that may die while their model is loading."""


class RayPool:
    """Replicas on a Ray that is started for this job, or on an existing cluster.

    Args:
        job: The job for the workers.
        config: The options of the cluster.
        demand: The work.
        note: Shows a line of progress to the user.
    """

    def __init__(self, job: Job, config: ClusterConfig, demand: Demand, note: Callable[[str], None]) -> None:
        """Keep the arguments; `start` starts the replicas."""
        self._job, self._config, self._demand, self._note = job, config, demand, note
        self._numbers = itertools.count()
        self._starting: dict[Any, tuple[str, Any]] = {}
        self._actors: dict[str, Any] = {}
        self._on_node: dict[str, str] = {}
        self._parked: list[Any] = []
        self._refusal: BaseException | None = None
        self._facts: dict[str, Any] = {}
        self._doing = "waiting for Ray"
        self._asked: Any = None
        self._guardian: Guardian | None = None
        self._failed_starts = self._refused = self._most = 0
        self._leaving: set[str] = set()
        self._hopeless: set[str] = set()
        self._looked = self._last_alive = time.monotonic()

    def start(self) -> list[Replica]:
        """See `ReplicaPool.start`."""
        config = self._config
        if config.name == "local":
            self._note("starting Ray")
            self._guardian = Guardian()
        else:
            self._note(f"joining the Ray cluster at {config.address}")
        connect(config, self._guardian.folder if self._guardian else None, self._note)
        self._head = Head(ray.get_runtime_context().gcs_address)
        there = nodes()
        self._sizing = sizing = choose_sizing(config, self._demand, [node.size for node in there])
        self._note(f"starting {sizing}" + (f", on {len(there)} nodes" if len(there) > 1 else ""))
        self._remote = ray.remote(ReplicaActor).options(
            num_cpus=sizing.threads, num_gpus=sizing.gpus, memory=sizing.memory or None, max_concurrency=CALLS,
            max_restarts=0,
        )  # fmt: skip
        self._job_ref = ray.put(self._job)
        grows = config.name == "existing" and config.replicas == "auto"
        self._place = Place(sizing, None if grows else sizing.replicas, this_node(), config.name == "existing")
        self._doing = "waiting for a process"
        for _ in range(sizing.replicas):
            self._launch()
        needed = min(config.min_replicas, sizing.replicas)
        ready: list[Replica] = []
        deadline = time.monotonic() + config.start_timeout
        while len(ready) < needed:
            ready += self._take(timeout=0.5)
            if self._refusal is not None and len(ready) + len(self._starting) < needed:
                raise self._refusal
            if time.monotonic() > deadline:
                raise self._never_came(len(ready), needed)
        return ready

    def arrivals(self, unfinished: int) -> list[Replica]:
        """See `ReplicaPool.arrivals`.

        Raises:
            ClusterLost: If no replica has been there for `cluster.start_timeout`, or the head is gone.
        """
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS or (unfinished and not self._actors):
            self._looked = now
            if self._head.answers():
                self._look_at_nodes(unfinished)
            elif self._head.silent_seconds > HEAD_SECONDS:
                raise ClusterLost(
                    f"the head of the cluster at {self._head.address} has not answered for {HEAD_SECONDS:g} s"
                )
        arrived = self._take(timeout=0)
        if arrived or self._ready or not unfinished:
            self._last_alive = now
        elif now - self._last_alive > self._config.start_timeout:
            raise self._never_came(0, 1)
        return arrived

    def leaving(self) -> set[str]:
        """See `ReplicaPool.leaving`."""
        return self._leaving

    def replace(self, replica: Replica) -> None:
        """See `ReplicaPool.replace`."""
        self._end(replica.name)
        self._launch()

    def pending(self) -> int:
        """See `ReplicaPool.pending`."""
        return len(self._starting)

    def doing(self) -> str:
        """See `ReplicaPool.doing`: of the one that has been starting for the longest time."""
        return self._doing

    def facts(self) -> dict[str, Any]:
        """See `ReplicaPool.facts`."""
        of_one = ("pid", "node", "node_id")
        return {k: v for k, v in self._facts.items() if k not in of_one} | {"replicas": self._most}

    def close(self) -> None:
        """See `ReplicaPool.close`: a Ray of our own ends with everything in it."""
        # If the head is lost, each call to Ray may wait for minutes; that must not delay the end of the job.
        closing = threading.Thread(target=self._shut_down, name="close", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)
        if closing.is_alive():
            atexit.unregister(ray.shutdown)
        if self._guardian is not None:
            self._guardian.close()

    @property
    def _ready(self) -> int:
        return len(self._actors) - len(self._starting)

    def _launch(self) -> None:
        name = f"replica-{next(self._numbers)}"
        actor: Any = self._remote.remote(self._job_ref, self._place)
        self._actors[name] = actor
        self._starting[actor.ready.remote()] = name, actor

    def _end(self, name: str) -> None:
        self._on_node.pop(name, None)
        ray.kill(self._actors.pop(name), no_restart=True)

    def _take(self, timeout: float) -> list[Replica]:
        """Return the replicas whose model has been loaded meanwhile."""
        if not self._starting:
            return []
        self._ask()
        done, _ = ray.wait(list(self._starting), num_returns=len(self._starting), timeout=timeout)
        ready: list[Replica] = []
        refused: list[tuple[str, Any, BaseException]] = []
        for reference in done:
            name, actor = self._starting.pop(reference)
            try:
                facts = ray.get(reference)
            except RayTaskError as error:
                why = unwrap(error)
                if isinstance(why, ReplicaDied):
                    ray.kill(actor, no_restart=True)
                    self._start_again(name, why)
                    continue
                del self._actors[name]
                refused.append((name, actor, why))
                continue
            except RayError as error:
                self._start_again(name, error)
                continue
            self._failed_starts = 0
            self._facts = facts
            self._on_node[name] = facts["node_id"]
            ready.append(RayReplica(name, actor, facts))
        for name, actor, refusal in refused:  # handled after all answers are in: others may be ready
            self._go_without(name, actor, refusal)
        self._most = max(self._most, self._ready)
        return ready

    def _ask(self) -> None:
        """Take the answer to the last question what a starting replica is doing, and ask again, without waiting."""
        _, actor = next(iter(self._starting.values()))
        if self._asked is not None:
            done, _ = ray.wait([self._asked], timeout=0)
            if not done:
                return  # its process is still being started
            try:
                self._doing = ray.get(self._asked)
            except RayError:
                self._doing = ""  # it is gone: its `ready` says so
        self._asked = actor.doing.remote()

    def _go_without(self, name: str, actor: Any, error: BaseException) -> None:
        """Handle a replica that cannot run on its node: if others work, report it and go on without it.

        Its actor is kept to hold its place, so that no other replica is put there.
        """
        if not self._ready or not isinstance(error, PromptmillError):
            raise error from None
        self._parked.append(actor)
        self._refusal = error
        self._refused += 1
        self._note(f"{name} cannot start, and others go on without it: {error}")

    def _start_again(self, name: str, error: RayError | ReplicaDied) -> None:
        """Replace a replica that died while its model was loading: once may be chance, or the end of its node.

        Raises:
            ClusterLost: If that happens repeatedly, and no other replica works.
            WorkerFailed: The same, and what ended them was an exception.
        """
        del self._actors[name]
        if isinstance(error, RuntimeEnvSetupError):
            raise ClusterLost(f"a node cannot load the code that the driver sends: {reason(error)}") from None
        self._failed_starts += not isinstance(unwrap(error), ReplicaLost)
        if self._failed_starts < FAILED_STARTS:
            self._launch()
            return
        died = f"{self._failed_starts} replicas in a row died while their model was loading"
        told = str(error) if isinstance(error, ReplicaDied) else f"{reason(error)}; is there enough memory?"
        text = f"{died}: {told}"
        if not self._ready:
            raise (WorkerFailed if isinstance(error, ReplicaFailed) else ClusterLost)(text) from None
        self._hopeless = {node.id for node in nodes()}
        self._note(f"{text} The others go on")

    def _look_at_nodes(self, unfinished: int) -> None:
        """Find leaving nodes; with `auto`, request as many replicas as fit and have work, and some more.

        The additional ones, half as many again as fit, wait for resources and show the demand to an autoscaler.
        """
        if self._config.name != "existing":
            return
        gone = draining()
        self._leaving = {name for name, node in self._on_node.items() if node in gone}
        if self._config.replicas != "auto":
            return
        there = nodes()
        if self._failed_starts >= FAILED_STARTS:
            if self._ready and self._hopeless.issuperset(node.id for node in there):
                return  # more would die of the same cause
            self._failed_starts = 0
        room = max(1, sum(self._sizing.fit(node.size) for node in there) - self._refused)
        wanted = min(room + max(1, room // 2), unfinished)
        staying = len(self._actors) - len(self._leaving)
        for _ in range(wanted - staying):
            self._launch()
        for reference, (name, _) in list(reversed(self._starting.items()))[: max(0, staying - wanted)]:
            del self._starting[reference]
            self._end(name)

    def _never_came(self, ready: int, needed: int) -> ClusterLost:
        sizing = self._sizing
        each = [f"{sizing.threads} CPU", f"{sizing.gpus:g} GPU"]
        free = ray.available_resources()  # type: ignore[no-untyped-call]
        have = [f"{free.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU")]
        if sizing.memory:
            each.append(f"{sizing.memory / 2**30:.1f} GiB")
            have.append(f"{free.get('memory', 0) / 2**30:.1f} GiB")
        keys = [
            "cluster.cpus_per_replica",
            "cluster.memory_per_replica",
            *["cluster.gpus_per_replica"] * (sizing.gpus > 0),
        ]
        others = ", or wait until nodes are free" if self._config.name == "existing" else ""
        return ClusterLost(
            f"{ready} of {needed} replicas started within cluster.start_timeout={self._config.start_timeout:g} s; "
            f"each needs {', '.join(each)} on one node, and free on all nodes together are {', '.join(have)}; lower "
            f"{', '.join(keys[:-1])} or {keys[-1]}{others}"
        )

    def _shut_down(self) -> None:
        if ray.is_initialized():
            for actor in (*self._actors.values(), *self._parked):
                ray.kill(actor, no_restart=True)
            ray.shutdown()
