"""Faults 23 to 25 and 37: nodes that are lost or come, a head that is lost, and resources that never come."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.run.cluster.local import until_it_lives
from tests.small_runs import RAY, Stage, assert_same_rows, events, generate, parts, started_generate

pytestmark = pytest.mark.ray

OPTIONS = (
    "source.id_column=id", "output.rows_per_shard=8", "sampling.max_tokens=24", "sampling.ignore_eos=true",
    "cluster.cpus_per_replica=1",
)  # fmt: skip
ROWS = 96
STARTS = 30
"""How often a node is started: where ten processes share a core, most of its starts are too slow for Ray."""


@pytest.fixture
def cluster(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without processors, so that every replica is on a node that can be lost; each waits after its first part."""
    from ray.cluster_utils import Cluster

    for name, value in {**stage.environment, "RAY_worker_niceness": "0"}.items():
        monkeypatch.setenv(name, value)
    head = {"num_cpus": 0, "include_dashboard": False}
    made = until_it_lives(lambda: Cluster(initialize_head=True, head_node_args=head), STARTS)
    try:
        yield made
    finally:
        made.shutdown()


def add_node(cluster: Any) -> Any:
    """A node with one processor, started again where the machine is too busy for Ray."""
    return until_it_lives(lambda: cluster.add_node(num_cpus=1), STARTS)


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


def test_fault_23_and_24_nodes_are_drained_and_killed_and_another_joins(
    cluster: Any, stage: Stage, source: Path, reference: Path, tmp_path: Path
) -> None:
    """In one run, as a run on a cluster takes a minute to start: what is left is done by the node that joins."""
    first, second = (add_node(cluster) for _ in range(2))
    output = tmp_path / "out"
    options = ("cluster=existing", f"cluster.address={cluster.address}", *OPTIONS)
    with started_generate(source, output, *options) as run:
        run.wait_at(stage, 2)
        announce_the_end_of(first, cluster)
        run.wait_for(lambda: bool(events(output, "replica_leaving")))
        kill_node(second)
        run.wait_for(lambda: bool(events(output, "replica_down")))
        add_node(cluster)
        run.wait_for(lambda: len(events(output, "replica_up")) == 3)
        stage.open()
        code, text = run.finish()
    assert code == 0, text
    (leaving,) = events(output, "replica_leaving")
    downs = {down["replica"]: down for down in events(output, "replica_down")}
    assert [down["counts"] for down in downs.values()] == [False, False], downs
    drained = downs.pop(leaving["replica"])
    assert drained["shards"] == [], "it finished what it had in hand"
    (killed,) = downs.values()
    assert 1 <= len(killed["shards"]) <= 2, "what it had in flight"
    started = events(output, "shard_started")
    assert not [s for s in started if s["replica"] == leaving["replica"] and s["time"] > leaving["time"]]
    assert not (output / "_job" / "suspects").exists(), "the end of a node is held against no row"
    assert {shard["replica"] for shard in started} == {up["replica"] for up in events(output, "replica_up")}
    assert_same_rows(reference, output)


def announce_the_end_of(node: Any, cluster: Any) -> None:
    """Tell the cluster what a cloud's notice of preemption makes known: how long a node has left; here, time enough."""
    script = """
import sys, time
from ray._raylet import GcsClient
from ray.core.generated import autoscaler_pb2
client = GcsClient(address=sys.argv[1])
hour = int((time.time() + 3600) * 1000)
print(client.drain_node(sys.argv[2], autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION, "preempted", hour))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, cluster.address, node.node_id], check=True, capture_output=True, text=True
    )
    assert "True" in done.stdout, done


@pytest.mark.slow
def test_fault_25_the_head_is_lost(cluster: Any, stage: Stage, source: Path, reference: Path, tmp_path: Path) -> None:
    node = add_node(cluster)
    output = tmp_path / "out"
    with started_generate(source, output, "cluster=existing", f"cluster.address={cluster.address}", *OPTIONS) as run:
        run.wait_at(stage)
        cluster.head_node.kill_gcs_server()
        kill_node(node)
        stage.open()
        code, text = run.finish()
    assert code == 75, text
    assert "the same command resumes from there" in text.splitlines()[-1]
    before = parts(output)
    assert generate(source, output, *RAY, "cluster.replicas=1", *OPTIONS[:-1]) == 0
    assert {name: parts(output)[name] for name in before} == before
    assert_same_rows(reference, output)


def test_fault_37_resources_that_never_come(cluster: Any, source: Path, tmp_path: Path) -> None:
    add_node(cluster)
    options = ("cluster=existing", f"cluster.address={cluster.address}", *OPTIONS[:-1], "cluster.cpus_per_replica=64")
    with started_generate(source, tmp_path / "out", *options, "cluster.start_timeout=3") as run:
        code, text = run.finish()
    assert code == 75, text
    assert (
        "0 of 1 replicas started within cluster.start_timeout=3 s; each needs 64 CPU, 0 GPU, 1.0 GiB on one node"
        in text
    )
