"""Starts a small Ray on loopback, gives it a task, stops it, and prints the result as JSON: a separate program."""

from __future__ import annotations

import json
import time
from typing import Any

from pipeline.errors import PromptmillError
from pipeline.run.cluster.connect import connect, ray
from pipeline.run.cluster.guardian import Guardian
from pipeline.wording import one_line
from pipeline.work.config import ClusterConfig


def answer() -> dict[str, object]:
    """Return the version, the seconds and the cores; or the fault."""
    guardian = Guardian()
    started = time.monotonic()
    resources: Any = ray.cluster_resources
    try:
        connect(ClusterConfig(cpus_per_replica="1"), guardian.folder, lambda line: None)
        ray.get(ray.remote(_task).options(num_cpus=1).remote(), timeout=60)
        found = {
            "version": ray.__version__,
            "seconds": time.monotonic() - started,
            "cpus": resources().get("CPU"),
        }
        ray.shutdown()
        return found
    except (PromptmillError, ray.exceptions.RayError, OSError) as error:
        return {"fault": one_line(error, 300)}
    finally:
        guardian.close()


def _task() -> int:
    return 1


if __name__ == "__main__":
    print(json.dumps(answer()))
