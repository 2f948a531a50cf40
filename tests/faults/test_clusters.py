"""Faults 23 to 25 and 37: nodes that are lost or come, a head that is lost, and resources that never come."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import RAY, assert_same_rows, events, generate, parts, prompts, started_generate, wait_until, write

pytestmark = pytest.mark.ray

OPTIONS = (
    "source.id_column=id", "output.rows_per_shard=8", "sampling.max_tokens=120", "sampling.ignore_eos=true",
    "engine.max_num_seqs=2", "cluster.cpus_per_replica=1",
)  # fmt: skip
"""Some ten seconds of work for a replica."""
ROWS = 128


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(prompts(ROWS), tmp_path_factory.mktemp("in") / "prompts.parquet")


@pytest.fixture(scope="module")
def reference(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("reference") / "out"
    assert generate(source, output, *OPTIONS[:-1]) == 0
    return output


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without processors, so that every replica is on a node that can be lost."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield made
    finally:
        made.shutdown()


def kill_node(node: Any) -> None:
    """End a node as a power cut does: its raylet, and what is below it, which otherwise goes on for ten seconds."""
    (process,) = node.all_processes["raylet"]
    raylet = process.process.pid
    for pid in (raylet, *children(raylet)):
        os.kill(pid, signal.SIGKILL)


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "stat").read_text().rpartition(")")[2].split()[1] == str(parent):
                found.append(int(entry.name))
    return found


def test_fault_23_a_raylet_is_killed(cluster: Any, source: Path, reference: Path, tmp_path: Path) -> None:
    first = cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    output = tmp_path / "out"
    options = ("cluster=existing", f"cluster.address={cluster.address}", "cluster.replicas=2", *OPTIONS)
    with started_generate(source, output, *options) as run:
        assert wait_until(lambda: (output / "_job" / "events").is_dir() and len(events(output, "replica_up")) == 2)
        run.wait_for_part()
        kill_node(first)
        code, text = run.finish()
    assert code == 0, text
    (down,) = events(output, "replica_down")
    assert down["counts"] is False, down
    assert not (output / "_job" / "suspects").exists(), "the end of a node is held against no row"
    assert_same_rows(reference, output)


def test_fault_24_a_node_joins(cluster: Any, source: Path, reference: Path, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1)
    output = tmp_path / "out"
    options = ("cluster=existing", f"cluster.address={cluster.address}", *OPTIONS)
    with started_generate(source, output, *options) as run:
        run.wait_for_part()
        cluster.add_node(num_cpus=1)
        code, text = run.finish()
    assert code == 0, text
    assert len(events(output, "replica_up")) == 2
    assert_same_rows(reference, output)


@pytest.mark.slow
def test_fault_25_the_head_is_lost(cluster: Any, source: Path, reference: Path, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1)
    output = tmp_path / "out"
    with started_generate(source, output, "cluster=existing", f"cluster.address={cluster.address}", *OPTIONS) as run:
        run.wait_for_part()
        cluster.head_node.kill_gcs_server()
        kill_node(node)
        code, text = run.finish()
    assert code == 75, text
    assert "the same command goes on from there" in text.splitlines()[-1]
    before = parts(output)
    assert generate(source, output, *RAY, "cluster.replicas=1", *OPTIONS[:-1]) == 0
    assert {name: parts(output)[name] for name in before} == before
    assert_same_rows(reference, output)


def test_fault_37_resources_that_never_come(cluster: Any, source: Path, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1)
    options = ("cluster=existing", f"cluster.address={cluster.address}", *OPTIONS[:-1], "cluster.cpus_per_replica=64")
    with started_generate(source, tmp_path / "out", *options, "cluster.start_timeout=3") as run:
        code, text = run.finish()
    assert code == 75, text
    assert "0 of 1 replicas started within cluster.start_timeout=3 s; each needs 64 CPU and 0 GPU, and free are" in text
