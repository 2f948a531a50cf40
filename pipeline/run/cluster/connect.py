"""Starts a Ray for a job, or joins an existing cluster; other modules import Ray from here."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Both are read when Ray is imported: no usage reports leave the machine, and no launcher's environment is made again.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# A replica without a GPU of its own must not see one; said here, since Ray warns that its default will change.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")

import ray as ray
from ray.exceptions import ActorUnavailableError as ActorUnavailableError
from ray.exceptions import LocalRayletDiedError as LocalRayletDiedError
from ray.exceptions import NodeDiedError as NodeDiedError
from ray.exceptions import OutOfMemoryError as OutOfMemoryError
from ray.exceptions import RayActorError as RayActorError
from ray.exceptions import RayError as RayError
from ray.exceptions import RayTaskError as RayTaskError
from ray.exceptions import RuntimeEnvSetupError as RuntimeEnvSetupError

import pipeline
from pipeline.errors import ClusterLost
from pipeline.machine import cores
from pipeline.run.cluster.local import start_local
from pipeline.wording import lines_of, one_line, shortened
from pipeline.work.config import ClusterConfig

logger = logging.getLogger(__name__)

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray sets for a job that was submitted to a cluster."""


class Head:
    """The cluster's head, checked by TCP connections.

    Args:
        address: host:port of its service.
    """

    def __init__(self, address: str) -> None:
        """Start with the assumption that it is there."""
        self.address = address
        self._heard = time.monotonic()

    @property
    def silent_seconds(self) -> float:
        """Seconds since its last answer."""
        return time.monotonic() - self._heard

    def answers(self) -> bool:
        """Try to connect, for at most one second."""
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
        except OSError:
            return False
        self._heard = time.monotonic()
        return True


def _logical_cpus(config: ClusterConfig) -> int:
    """Return the CPUs of the job's own Ray: the cores, or more if the configured replicas need more."""
    asked = [value for value in (config.replicas, config.cpus_per_replica) if value != "auto"]
    return max(cores(), math.prod(map(int, asked)))


def connect(config: ClusterConfig, folder: str | None, note: Callable[[str], None]) -> None:
    """Start Ray on loopback for this job alone, with its files in `folder`, or join the cluster at `address`.

    Raises:
        ClusterLost: If that is not possible.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    logging.getLogger("ray").setLevel(logging.ERROR)  # Ray does not configure logging here, so its level is ours to set
    try:
        # Ray's workers search the driver's current folder for modules first, and another `pipeline` may be there.
        with contextlib.chdir("/"):
            if config.name == "existing":
                ray.init(address=config.address, namespace="promptmill", runtime_env=_runtime_env(config), **quiet)
                warn_if_open(ray.get_runtime_context().gcs_address, note)
            else:
                start_local(_logical_cpus(config), folder, quiet)
    except Exception as error:  # Ray's start may raise any exception of its libraries
        if isinstance(error, ConnectionError) and config.address == "auto":
            raise ClusterLost("cluster.address=auto: no Ray is running here; name the cluster's address") from error
        where = config.address or "this machine"
        hint = "" if config.name == "local" or _has_token() else (
            "; if the cluster has a token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        )  # fmt: skip
        raise ClusterLost(
            f"cluster.address={where}: Ray cannot be reached or started: {reason(error)}{hint}"
        ) from error
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():  # restore: Ray replaces them with its own, which exit with code 15
            signal.signal(number, handler)
    _silence()
    sys.stdout.flush()


def _runtime_env(config: ClusterConfig) -> dict[str, Any]:
    """Return a runtime environment that ships this process's code; a submitted job has shipped its code already."""
    if not config.ship_code or JOB_CONFIG in os.environ:
        return {}
    return {"py_modules": [str(Path(pipeline.__file__).parent)], "excludes": ["**/__pycache__"]}


def warn_if_open(address: str, note: Callable[[str], None]) -> None:
    """Warn about a cluster that runs code from anyone who reaches it: without a token, and not on loopback."""
    if _has_token() or _is_loopback(address.rpartition(":")[0].strip("[]")):
        return
    note(
        f"WARNING: the Ray cluster at {address} has no token authentication: whoever reaches it can run code on it; start it "
        "with RAY_AUTH_MODE=token (docs/reference/security.md)"
    )


def _has_token() -> bool:
    """Whether this process uses a token with Ray."""
    return os.environ.get("RAY_AUTH_MODE", "").lower() == "token"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _silence() -> None:
    """Keep Ray's long messages about ended processes and nodes off the terminal; the event `replica_down` says it in one line.

    Neither `log_to_driver=False` nor any public option covers them. With other Ray versions they may be shown.
    """
    worker: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda data, **_: logger.debug("Ray: %s", " ".join(map(str, data.get("lines", ()))))


def reason(error: BaseException) -> str:
    """Extract the cause from Ray's long messages: not the first line, as of other exceptions, but the last with a cause."""
    detail = re.search(r"Worker exit detail: (.*?)(?:\s*Some common causes|$)", str(error), re.DOTALL)
    if detail:
        return f"its process ended: {one_line(detail[1])}"
    lines = lines_of(error)
    telling = [line for line in lines if "exit" in line.lower() or "reason" in line.lower() or "kill" in line.lower()]
    return shortened((telling or lines or [type(error).__name__])[-1], 200)
