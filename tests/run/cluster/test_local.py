"""A Ray for one job starts once more where its raylet ended too soon."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from pipeline.run.cluster import local
from pipeline.run.cluster.local import AGENT_PORTS, LOOPBACK, free_ports
from tests.small_runs import python

START = """
import json, os, signal, sys, tempfile
from ray._private.node import Node
from pipeline.run.cluster.connect import connect, ray
from pipeline.run.cluster.local import AGENT_PORTS
from pipeline.work.config import ClusterConfig

start, given = Node.start_raylet, []

def observed(node, *arguments, **named):
    start(node, *arguments, **named)
    given.append({name: getattr(node._ray_params, name) for name in AGENT_PORTS})
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
print(json.dumps([given, resources]))
"""


@pytest.mark.ray
def test_agents_get_their_ports_when_the_raylet_did_not_wait_for_them() -> None:
    done = python(START, "1")
    assert done.returncode == 0, done.stderr
    (first, second), resources = json.loads(done.stdout.splitlines()[-1])
    assert first["metrics_agent_port"] == first["runtime_env_agent_port"] == 0, "Ray chooses them, and waits"
    assert all(second.values()) and len({*second.values()}) == len(AGENT_PORTS)
    assert resources["CPU"] >= 1


@pytest.mark.ray
def test_a_raylet_that_ends_again_is_told_at_once() -> None:
    done = python(START, "2")
    assert done.returncode == 0, done.stderr
    given, error = json.loads(done.stdout.splitlines()[-1])
    assert len(given) == 2
    assert (
        error
        == "cluster.address=this machine: Ray cannot be reached or started: Ray's raylet ended before its node was ready"
    )


def test_the_ports_are_free_and_differ() -> None:
    ports = free_ports()
    assert list(ports) == list(AGENT_PORTS) and len({*ports.values()}) == len(AGENT_PORTS)
    for port in ports.values():
        socket.create_server((LOOPBACK, port)).close()


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
