"""Joining a Ray leaves the process as it was; what Ray does is made up here, and real in tests/faults."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any

import pytest

from pipeline.run import ray_cluster
from pipeline.run.config import ClusterConfig


def test_sigterm_still_is_the_jobs_after_ray_took_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def ours(signum: int, frame: FrameType | None) -> None:
        raise AssertionError

    def init(**_: Any) -> None:
        signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(signum))  # as Ray 2.60 does

    monkeypatch.setattr(ray_cluster.ray, "init", init)
    before = signal.signal(signal.SIGTERM, ours)
    try:
        ray_cluster.connect(ClusterConfig(name="existing", address="auto"), None)
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)
