"""The manifests of docker/ as data, with the pods and containers in them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DOCKER = Path(__file__).parents[2] / "docker"
KUBERAY = DOCKER / "kuberay"
Object = dict[str, Any]


def compose() -> Object:
    loaded: Object = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def objects() -> Iterator[tuple[str, Object]]:
    """Every Kubernetes object, named by its file and its kind."""
    for file in sorted(KUBERAY.glob("*.yaml")):
        for loaded in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            yield f"{file.name}:{loaded['kind']}", loaded


def ray_jobs() -> Iterator[tuple[str, Object]]:
    """The specification of every RayJob, also of those that a RayCronJob makes."""
    for name, loaded in objects():
        if loaded["kind"] == "RayJob":
            yield name, loaded["spec"]
        elif loaded["kind"] == "RayCronJob":
            yield name, loaded["spec"]["jobTemplate"]


def pods() -> Iterator[tuple[str, Object]]:
    """Every pod template, with the autoscaler's container in the head's, where KubeRay puts it."""
    for name, job in ray_jobs():
        cluster = job["rayClusterSpec"]
        head = cluster["headGroupSpec"]["template"]
        autoscaler = {
            key: cluster["autoscalerOptions"][key] for key in ("resources", "securityContext", "volumeMounts")
        }
        containers = [*head["spec"]["containers"], {"name": "autoscaler", "image": "put/by-kuberay:1", **autoscaler}]
        yield f"{name}:submitter", job["submitterPodTemplate"]
        yield f"{name}:head", {**head, "spec": {**head["spec"], "containers": containers}}
        for group in cluster["workerGroupSpecs"]:
            yield f"{name}:{group['groupName']}", group["template"]
    for name, loaded in objects():
        if loaded["kind"] == "CronJob":
            yield name, loaded["spec"]["jobTemplate"]["spec"]["template"]


def shell_words(command: str) -> list[str]:
    """The words of a command as a shell makes them, substitutions and all, without running the command."""
    done = subprocess.run(
        ["sh", "-c", f"printf '%s\\0' {command}"], check=True, capture_output=True, text=True, timeout=900
    )
    return done.stdout.split("\0")[:-1]
