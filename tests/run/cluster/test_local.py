"""A Ray for one job starts once more where its raylet ended too soon."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.run.cluster import local
from tests.small_runs import python

START = """
import json, os, signal, sys, tempfile
from ray._private.node import Node
from pipeline.run.cluster.connect import connect, ray
from pipeline.work.config import ClusterConfig

start, given = Node.start_raylet, []

def observed(node, *arguments, **named):
    start(node, *arguments, **named)
    given.append(node)
    if len(given) <= int(sys.argv[1]):  # as a raylet does whose agents are slow
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)

Node.start_raylet = observed
with tempfile.TemporaryDirectory(dir="/tmp", prefix="pm-ray-") as folder:
    try:
        connect(ClusterConfig(), folder, print)
        resources = ray.cluster_resources()
        ray.shutdown()
    except Exception as error:
        resources = str(error)
print(json.dumps([len(given), resources]))
"""


@pytest.mark.ray
def test_it_starts_again_when_the_raylet_did_not_wait_for_its_agents() -> None:
    done = python(START, "1")
    assert done.returncode == 0, done.stderr
    starts, resources = json.loads(done.stdout.splitlines()[-1])
    assert starts == 2 and resources["CPU"] >= 1


@pytest.mark.ray
def test_a_raylet_that_ends_each_time_is_told() -> None:
    done = python(START, "99")
    assert done.returncode == 0, done.stderr
    starts, error = json.loads(done.stdout.splitlines()[-1])
    assert starts == local.STARTS
    expected = "Ray cannot be reached or started: Ray's raylet ended before its node was ready"
    assert error == f"cluster.address=this machine: {expected}"


def test_a_ray_of_this_job_alone_starts_no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a Ray of another version has not stays away."""

    class Node:
        def start_api_server(self, *, include_dashboard: bool) -> None:
            raise AssertionError

        def start_monitor(self) -> None:
            raise AssertionError

    own, started = dict(vars(Node)), []

    def init(**_: object) -> None:
        node: Any = Node()
        node.start_api_server(include_dashboard=False)
        node.start_monitor()
        started.append(node._webui_url)

    monkeypatch.setattr(local, "Node", Node)
    monkeypatch.setattr(local.ray, "init", init)
    local.start_local(1, None, {})
    assert started == [""] and dict(vars(Node)) == own
