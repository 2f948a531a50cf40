from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.machine import cores
from pipeline.run.dispatch import sizing
from pipeline.run.dispatch.sizing import Demand, Node, Sizing, choose_sizing
from pipeline.work.config import CORES_A_REPLICA, ClusterConfig, bytes_of

GIB = 2**30


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "available_bytes", lambda: 64 * GIB)


def sized(*, shards: int = 1000, weights: int = GIB, cpus: int = 16, gpus: float = 0, **config: Any) -> tuple[int, int]:
    found = choose_sizing(ClusterConfig(**config), Demand(shards, weights), [Node(cpus, gpus)])
    assert isinstance(found, Sizing)
    return found.replicas, found.threads


@pytest.mark.parametrize(
    ("cpus", "wanted"), [(1, (1, 1)), (2, (1, 2)), (8, (1, 8)), (16, (2, 8)), (20, (2, 10)), (64, (8, 8))]
)
def test_auto_is_a_replica_every_eight_cores(cpus: int, wanted: tuple[int, int]) -> None:
    assert sized(cpus=cpus) == wanted


def test_auto_by_the_cores_that_a_replica_is_given() -> None:
    assert sized(cpus_per_replica="4") == (4, 4)
    assert sized(cpus_per_replica="32") == (1, 32), "one, even where there are fewer"


def test_auto_takes_no_more_than_memory_holds() -> None:
    assert sized(cpus=64, weights=10 * GIB) == (3, 21)
    assert sized(cpus=64, weights=100 * GIB) == (1, 64), "one is tried in any case"


def test_this_machines_memory_says_nothing_about_a_cluster() -> None:
    assert sized(cpus=64, weights=100 * GIB, name="existing", address="auto") == (8, 8)


def on(nodes: list[Node], *, shards: int = 1000, weights: int = GIB, **config: Any) -> Sizing:
    return choose_sizing(ClusterConfig(name="existing", address="auto", **config), Demand(shards, weights), nodes)


@pytest.mark.parametrize(
    ("cpus", "wanted"),
    [
        ([1, 1], (2, 1)), ([4, 4], (2, 4)), ([6, 6, 6], (3, 6)), ([12], (2, 6)), ([0, 8, 16], (3, 8)), ([66], (8, 8)),
        ([2, 64], (8, 8)), ([2] * 40 + [64], (72, 2)), ([0], (1, 1)), ([], (1, 1)),
    ],
)  # fmt: skip
def test_on_a_cluster_a_replica_fits_a_node(cpus: list[int], wanted: tuple[int, int]) -> None:
    found = on([Node(count) for count in cpus])
    assert (found.replicas, found.threads) == wanted


def test_on_a_cluster_memory_counts_node_by_node() -> None:
    found = on([Node(16, memory=5 * GIB), Node(16, memory=100 * GIB)], weights=2 * GIB)
    assert (found.replicas, found.threads, found.memory) == (3, 8, 5 * GIB)
    assert on([Node(16, memory=4 * GIB)], weights=2 * GIB, memory_per_replica="2GiB").replicas == 2
    assert on([Node(16, memory=1)], memory_per_replica="0").replicas == 2


def test_on_a_cluster_gpus_and_shares_of_gpus() -> None:
    nodes = [Node(32, gpus=4), Node(8, gpus=1), Node(64)]
    assert (on(nodes, gpus_per_replica=1).replicas, on(nodes, gpus_per_replica=1).threads) == (5, 8)
    assert on(nodes, gpus_per_replica=0.4).replicas == 10, "a share lies on one GPU"


def test_on_a_cluster_a_number_is_given_as_many_threads_as_there_is_room_for() -> None:
    nodes = [Node(8), Node(8)]
    assert [on(nodes, replicas=str(n)).threads for n in (1, 2, 3, 4, 5, 16, 17)] == [8, 8, 4, 4, 2, 1, 1]


@given(
    nodes=st.lists(st.builds(Node, st.integers(0, 100), st.integers(0, 8), st.integers(0, 64).map(lambda n: n * GIB))),
    shards=st.integers(0, 300), weights=st.integers(0, 20 * GIB), gpus=st.sampled_from([0, 0.25, 0.5, 1]),
)  # fmt: skip
def test_what_auto_takes_there_is_room_for(nodes: list[Node], shards: int, weights: int, gpus: float) -> None:
    found = on(nodes, shards=shards, weights=weights, gpus_per_replica=gpus)
    room = sum(found.fit(node) for node in nodes)
    assert 1 <= found.threads <= CORES_A_REPLICA
    assert found.replicas == max(1, min(room, shards))


@pytest.mark.parametrize(
    ("text", "wanted"), [("6GiB", 6 * GIB), ("1.5 GB", 1.5e9), ("512MiB", 2**29), ("0", 0), ("7gb", 7e9)]
)
def test_amounts_of_memory(text: str, wanted: float) -> None:
    assert bytes_of(text) == wanted


@pytest.mark.parametrize("text", ["", "six", "-1GB", "6TB", "6 G", "auto "])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(ValueError, match="memory_per_replica"):
        ClusterConfig(memory_per_replica=text)


def test_auto_where_memory_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "available_bytes", lambda: None)
    assert sized(cpus=64, weights=100 * GIB) == (8, 8)


def test_no_more_replicas_than_shards() -> None:
    assert sized(cpus=64, shards=3) == (3, 21)
    assert sized(replicas="5", shards=2) == (2, 8)
    assert sized(shards=0) == (1, 16)


def test_a_number_is_taken_as_it_is() -> None:
    assert sized(replicas="3") == (3, 5)
    assert sized(replicas="32") == (32, 1)
    assert sized(replicas="2", cpus_per_replica="1", weights=1000 * GIB) == (2, 1)


def test_one_a_gpu() -> None:
    assert sized(gpus_per_replica=1, gpus=4) == (4, 4)
    assert sized(gpus_per_replica=0.5, gpus=4, cpus_per_replica="1") == (8, 1)


@pytest.mark.parametrize("gpus", [-0.1, 1.5, 2.0, float("nan")])
def test_a_replica_uses_no_more_than_one_gpu(gpus: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1: a replica uses one GPU"):
        ClusterConfig(gpus_per_replica=gpus)


def test_inline_is_one() -> None:
    assert sized(name="inline") == (1, 16)
    assert sized(name="inline", replicas="4", cpus_per_replica="2") == (1, 2)


def test_cores_are_those_this_process_may_use() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
