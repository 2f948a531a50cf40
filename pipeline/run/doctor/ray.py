"""Ray: whether one starts here, does a task and stops, tried in a separate process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.run.doctor.child import Children, Failed
from pipeline.run.doctor.finding import Finding, ok, to_fix

MODULE = "pipeline.run.doctor.ray_answer"
SECONDS = 180.0
_DO = (
    "use cluster=inline, which needs no Ray; for Ray, look at /dev/shm, the temporary folder, and firewalls on loopback"
)


def check_ray(children: Children) -> Iterator[Finding]:
    """Yield a finding about a Ray that is started for it."""
    try:
        found: Mapping[str, Any] = children.ask(MODULE, SECONDS)
    except Failed as error:
        yield to_fix("ray", f"cannot be started: {error}", _DO)
        return
    if "fault" in found:
        yield to_fix("ray", str(found["fault"]), _DO)
        return
    yield ok(
        "ray", f"{found['version']} starts with {found['cpus']:g} cores and does a task, in {found['seconds']:.1f} s"
    )
