"""The pool over a Ray that is made up: who is started, ended and gone without. tests/faults has it on a real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError, RuntimeEnvSetupError

from pipeline.errors import ClusterLost, CorruptInput, DeviceFault, PlanRefused, WorkerFailed
from pipeline.run.cluster import pool as ray_pool
from pipeline.run.cluster.actor import unwrap
from pipeline.run.cluster.nodes import RayNode
from pipeline.run.cluster.pool import RayPool
from pipeline.run.dispatch.replica import ReplicaDied, ReplicaFailed, ReplicaLost
from pipeline.run.dispatch.sizing import Demand, Node
from pipeline.work.config import ClusterConfig


@dataclass
class FakeRay:
    """Actors by number, in the order in which they were launched, and what becomes of each."""

    nodes: list[RayNode]
    fate: Callable[[int], Any] = lambda number: {"node": "n", "node_id": "n"}
    held_back: set[int] = field(default_factory=set)
    launched: list[int] = field(default_factory=list)
    killed: list[int] = field(default_factory=list)
    draining: set[str] = field(default_factory=set)

    def remote(self, _: type) -> Any:
        def launch(*_: Any) -> Any:
            number = len(self.launched)
            self.launched.append(number)
            ready, doing = SimpleNamespace(remote=lambda: number), SimpleNamespace(remote=lambda: "reading weights")
            return SimpleNamespace(number=number, ready=ready, doing=doing)

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=launch))

    def wait(self, references: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return [r for r in references if r not in self.held_back], []

    def get(self, number: int | str) -> Any:
        if isinstance(number, str):  # what it is doing
            return number
        fate = self.fate(number)
        if isinstance(fate, BaseException):
            raise fate
        return fate

    def kill(self, actor: Any, **_: Any) -> None:
        self.killed.append(actor.number)

    def put(self, value: Any) -> Any:
        return value

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(gcs_address="127.0.0.1:1")

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 0.0}


def node(name: str, cpus: int = 1) -> RayNode:
    return RayNode(name, name, Node(cpus))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    made = FakeRay([node("a"), node("b")])
    monkeypatch.setattr(ray_pool, "ray", made)
    monkeypatch.setattr(ray_pool, "connect", lambda *_: None)
    monkeypatch.setattr(ray_pool, "nodes", lambda: made.nodes)
    monkeypatch.setattr(ray_pool, "this_node", lambda: "home")
    monkeypatch.setattr(ray_pool, "draining", lambda: made.draining)
    monkeypatch.setattr(ray_pool, "Head", lambda _: SimpleNamespace(answers=lambda: True))
    monkeypatch.setattr(ray_pool, "LOOK_SECONDS", -1.0)
    return made


def pool(told: list[str] | None = None, shards: int = 100, **config: Any) -> RayPool:
    chosen = ClusterConfig(name="existing", address="auto", **config)
    return RayPool(None, chosen, Demand(shards, 0), (told if told is not None else []).append)  # type: ignore[arg-type]


def refused(error: Exception) -> RayTaskError:
    return RayTaskError("ready", "traceback", error)


def test_more_than_there_is_room_for_wait_and_start_where_a_node_joins(fake: FakeRay) -> None:
    fake.held_back = {2, 3}
    made = pool()
    assert [replica.name for replica in made.start()] == ["replica-0", "replica-1"]
    assert (made.arrivals(100), made.pending()) == ([], 1), "half as many as there is room for"
    fake.nodes.append(node("c"))
    fake.held_back = {3, 4}
    assert [replica.name for replica in made.arrivals(100)] == ["replica-2"]
    made.arrivals(100)
    assert made.pending() == 1
    assert made.facts()["replicas"] == 3


def test_no_more_than_there_is_work_for_and_nobody_who_loads_is_ended_for_it(fake: FakeRay) -> None:
    fake.nodes = [node(str(number)) for number in range(4)]
    fake.held_back = {1, 2, 3, 4, 5}
    made = pool(shards=4)
    assert len(made.start()) == 1
    made.arrivals(4)  # the one that is ready has two of them in flight
    assert (len(fake.launched), fake.killed) == (4, [])
    made.arrivals(2)
    assert fake.killed == [3, 2], "what is left is enough for one more"
    made.arrivals(0)
    assert (made.pending(), fake.killed) == (0, [3, 2, 1])
    made.arrivals(3)
    assert made.pending() == 2, "there is work again"


def test_a_node_that_cannot_be_used_is_gone_without_whoever_answers_first(fake: FakeRay) -> None:
    told: list[str] = []
    fake.fate = lambda number: refused(PlanRefused("on node a: no")) if number == 0 else {"node": "b", "node_id": "b"}
    made = pool(told)
    assert [replica.name for replica in made.start()] == ["replica-1"]
    assert told[-1] == "replica-0 cannot start, and others go on without it: on node a: no"
    fake.held_back = {2, 3, 4}
    made.arrivals(100)
    assert made.pending() == 1, "one waits for room, and none for the place that is no good"
    assert 0 not in fake.killed, "it keeps its place"


def test_where_none_can_be_used_the_job_is_refused(fake: FakeRay) -> None:
    fake.fate = lambda number: refused(PlanRefused(f"on node {number}: no"))
    with pytest.raises(PlanRefused, match="on node 0"):
        pool().start()


def test_fewer_than_the_least_that_was_asked_for_is_the_refusal_and_no_waiting(fake: FakeRay) -> None:
    fake.fate = lambda number: refused(PlanRefused("on node a: no")) if number == 0 else {"node": "b", "node_id": "b"}
    with pytest.raises(PlanRefused, match="on node a"):
        pool(min_replicas=2).start()


def test_deaths_while_loading_end_the_job_unless_others_work(fake: FakeRay) -> None:
    fake.fate = lambda number: RayActorError(error_msg="killed")
    with pytest.raises(ClusterLost, match=r"3 replicas in a row died"):
        pool().start()
    told: list[str] = []
    fake.launched.clear()
    fake.fate = lambda number: RayActorError(error_msg="killed") if number else {"node": "a", "node_id": "a"}
    made = pool(told)
    assert len(made.start()) == 1
    for _ in range(5):
        made.arrivals(100)
    assert "replicas in a row died" in told[-1]
    launched = len(fake.launched)
    made.arrivals(100)
    assert len(fake.launched) == launched, "no more of them for these nodes"
    fake.nodes.append(node("c"))
    made.arrivals(100)
    assert len(fake.launched) > launched


def test_an_exception_while_one_loads_costs_that_replica(fake: FakeRay) -> None:
    fake.fate = lambda number: refused(RuntimeError("CUDA error")) if number == 0 else {"node": "b", "node_id": "b"}
    made = pool()
    assert [replica.name for replica in made.start()] == ["replica-1"]
    assert fake.killed == [0]
    assert [replica.name for replica in made.arrivals(100)] == ["replica-2", "replica-3"], "its successor, and one more"


@pytest.mark.parametrize(
    ("error", "kind"),
    [(TypeError("no"), WorkerFailed), (WorkerFailed("no"), WorkerFailed), (DeviceFault("no"), ClusterLost)],
)
def test_exceptions_in_all_that_load_end_the_job(fake: FakeRay, error: Exception, kind: type[Exception]) -> None:
    fake.fate = lambda number: refused(error)
    with pytest.raises(kind, match=r"3 replicas in a row died while their model was loading: .*no$"):
        pool().start()


def test_code_that_a_node_cannot_take_is_said_so(fake: FakeRay) -> None:
    fake.fate = lambda number: RuntimeEnvSetupError("no space")
    with pytest.raises(ClusterLost, match="cannot load the code"):
        pool().start()


def test_who_is_on_a_node_that_leaves(fake: FakeRay) -> None:
    fake.fate = lambda number: {"node": "ab"[number % 2], "node_id": "ab"[number % 2]}
    fake.held_back = {2, 3, 4}
    made = pool()
    made.start()
    fake.draining, fake.nodes = {"a"}, [node("b")]
    made.arrivals(100)
    assert made.leaving() == {"replica-0"}
    assert made.pending() == 1, "another may take its place"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OutOfMemoryError("the node ran full"), ReplicaLost), (NodeDiedError("gone"), ReplicaLost),
        (RayActorError(error_msg="crashed"), ReplicaDied), (RuntimeEnvSetupError("bad"), ReplicaDied),
        (refused(DeviceFault("the device does not work")), ReplicaDied), (refused(TypeError("no")), ReplicaFailed),
        (refused(WorkerFailed("shard 3: no")), ReplicaFailed), (refused(CorruptInput("a.parquet: no")), CorruptInput),
    ],
)  # fmt: skip
def test_what_ray_says_of_a_replica_is_a_death_a_loss_or_the_end_of_the_job(
    error: Exception, kind: type[Exception]
) -> None:
    assert type(unwrap(error)) is kind


def test_what_a_starting_replica_does_can_be_told(fake: FakeRay) -> None:
    made = pool()
    assert made.doing() == "waiting for Ray"
    fake.held_back = {1}
    made.start()
    assert made.doing() == "waiting for a process"
    made.arrivals(10)
    assert made.doing() == "reading weights"
