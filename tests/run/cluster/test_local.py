"""A Ray for one job starts once more where its raylet ended too soon."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.run.cluster import local
from tests.small_runs import python

START = """
import json, os, signal, sys, tempfile, time
from pathlib import Path
from pipeline.run.cluster import local
from pipeline.run.cluster.connect import connect, ray
from pipeline.work.config import ClusterConfig

note, ended, agents = local._Agents.note, set(), []

def observed(self, raylet):
    note(self, raylet)
    if len(ended) < int(sys.argv[1]) and raylet not in ended and len(self._held) == 2:
        for agent in self._held:  # so that it does not end by itself
            os.kill(agent, signal.SIGSTOP)
            agents.append(agent)
        ended.add(raylet)
        os.kill(raylet, signal.SIGKILL)  # as a raylet ends whose agents are slow

def lives(pid):
    try:
        return "State:\\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False

local._Agents.note = observed
with tempfile.TemporaryDirectory(dir="/tmp", prefix="pm-ray-") as folder:
    try:
        connect(ClusterConfig(), folder, print)
        outcome = ray.cluster_resources()
        ray.shutdown()
    except Exception as error:
        outcome = str(error)
end = time.monotonic() + 120
while any(map(lives, agents)) and time.monotonic() < end:
    time.sleep(0.1)
left = [agent for agent in agents if lives(agent)]
for agent in left:
    os.kill(agent, signal.SIGKILL)
print(json.dumps([len(ended), outcome, left]))
"""


@pytest.mark.ray
def test_it_starts_again_when_the_raylet_did_not_wait_for_its_agents() -> None:
    done = python(START, "1")
    assert done.returncode == 0, done.stderr
    ended, resources, left = json.loads(done.stdout.splitlines()[-1])
    assert ended == 1 and resources["CPU"] >= 1
    assert left == [], "agents of the raylet that ended"


@pytest.mark.ray
def test_a_raylet_that_ends_each_time_is_told() -> None:
    done = python(START, "99")
    assert done.returncode == 0, done.stderr
    ended, error, left = json.loads(done.stdout.splitlines()[-1])
    assert ended == local.STARTS and left == []
    ended_early = "Ray's raylet ended before its node was ready, as on a very busy machine"
    assert error == f"cluster.address=this machine: Ray cannot be reached or started: {ended_early}"


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
