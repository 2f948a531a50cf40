from __future__ import annotations

import os
from typing import Any

import pytest

from pipeline.run import sizing
from pipeline.run.config import ClusterConfig
from pipeline.run.sizing import Demand, Sizing, choose_sizing, cores

GIB = 2**30


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "available_bytes", lambda: 64 * GIB)


def sized(*, shards: int = 1000, weights: int = GIB, cpus: int = 16, gpus: float = 0, **config: Any) -> tuple[int, int]:
    found = choose_sizing(ClusterConfig(**config), Demand(shards, weights), total_cpus=cpus, total_gpus=gpus)
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
    assert sized(cpus=64, weights=10 * GIB, name="existing", address="auto") == (8, 8)


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


def test_inline_is_one() -> None:
    assert sized(name="inline") == (1, 16)
    assert sized(name="inline", replicas="4", cpus_per_replica="2") == (1, 2)


def test_cores_are_those_this_process_may_use() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
