"""Joining a Ray leaves the process as it was; what Ray does is made up here, and real in tests/faults."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import ClusterLost
from pipeline.run.cluster import connect as ray_cluster
from pipeline.work.config import ClusterConfig


@pytest.mark.parametrize(
    ("address", "token", "warned"),
    [
        ("127.0.0.1:6379", False, False), ("[::1]:6379", False, False), ("localhost:6379", False, False),
        ("10.0.0.7:6379", False, True), ("head:6379", False, True), ("10.0.0.7:6379", True, False),
    ],
)  # fmt: skip
def test_an_open_cluster_is_warned_about(
    address: str, token: bool, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token" if token else "disabled")
    told: list[str] = []
    ray_cluster.warn_if_open(address, told.append)
    assert [line.startswith(f"WARNING: the Ray cluster at {address} has no token") for line in told] == [True] * warned


def test_the_nodes_run_this_code_unless_a_submission_has_brought_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []

    def init(**options: Any) -> None:
        sent.append(options["runtime_env"])

    monkeypatch.setattr(ray_cluster.ray, "init", init)
    monkeypatch.setattr(ray_cluster, "warn_if_open", lambda *_: None)
    monkeypatch.setattr(ray_cluster.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="head:1"))
    monkeypatch.delenv(ray_cluster.JOB_CONFIG, raising=False)
    ray_cluster.connect(ClusterConfig(name="existing", address="auto"), None, print)
    ray_cluster.connect(ClusterConfig(name="existing", address="auto", ship_code=False), None, print)
    monkeypatch.setenv(ray_cluster.JOB_CONFIG, "{}")
    ray_cluster.connect(ClusterConfig(name="existing", address="auto"), None, print)
    assert [env.get("py_modules") for env in sent] == [[str(Path(ray_cluster.__file__).parents[2])], None, None]
    assert not any("env_vars" in env for env in sent), "nothing secret goes along"


def test_sigterm_still_is_the_jobs_after_ray_took_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def ours(signum: int, frame: FrameType | None) -> None:
        raise AssertionError

    def init(**_: Any) -> None:
        signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(signum))  # as Ray 2.60 does

    monkeypatch.setattr(ray_cluster.ray, "init", init)
    before = signal.signal(signal.SIGTERM, ours)
    try:
        ray_cluster.connect(ClusterConfig(), "/nowhere", print)
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("mode", ["disabled", "token"])
def test_a_cluster_that_turns_us_away_may_want_a_token(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("Failed to connect to Ray cluster")

    monkeypatch.setattr(ray_cluster.ray, "init", init)
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(ClusterLost, match="cannot be reached") as error:
        ray_cluster.connect(ClusterConfig(name="existing", address="head:6379"), None, print)
    assert ("if the cluster has a token, set RAY_AUTH_MODE=token" in str(error.value)) == (mode == "disabled")


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("y"), OSError("z"), AssertionError(), ImportError("grpc")])
def test_whatever_the_start_of_ray_raises_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray_cluster.ray, "init", init)
    with pytest.raises(ClusterLost, match="Ray cannot be reached or started"):
        ray_cluster.connect(ClusterConfig(), "/nowhere", print)
