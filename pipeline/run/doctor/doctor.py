"""Runs all checks concurrently, each bounded in time and independent of the others; yields their findings in a fixed order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from pipeline.run.doctor.child import Children
from pipeline.run.doctor.engine import SECONDS as ENGINE_SECONDS
from pipeline.run.doctor.engine import check_engine
from pipeline.run.doctor.finding import Finding, to_fix, warning
from pipeline.run.doctor.hub import check_hub
from pipeline.run.doctor.installation import AGAIN, check_installation
from pipeline.run.doctor.machine import check_disks, check_memory, check_processor
from pipeline.run.doctor.ray import SECONDS as RAY_SECONDS
from pipeline.run.doctor.ray import check_ray
from pipeline.run.doctor.store import check_store
from pipeline.wording import named

SECONDS = 30.0
"""How long a check may take that asks this process and its disks."""
_SLACK = 30.0
"""Seconds that a check which starts a process may take in addition."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: What it looks at.
        run: Yields what it finds.
        seconds: How long that may take.
    """

    name: str
    run: Callable[[], Iterator[Finding]]
    seconds: float = SECONDS


def checks(output: str | None, children: Children) -> list[Check]:
    """Return all checks.

    Args:
        output: The place of the output to come; None: none is known yet.
        children: Runs those that may hang or crash.
    """
    return [
        Check("installation", check_installation),
        Check("processor", check_processor),
        Check("kernels", partial(check_engine, children), ENGINE_SECONDS + _SLACK),
        Check("memory", check_memory),
        Check("ray", partial(check_ray, children), RAY_SECONDS + _SLACK),
        Check("store", partial(check_store, output), 90.0),
        Check("disk", partial(check_disks, output)),
        Check("hub", check_hub),
    ]


def doctor(output: str | None, made: Callable[[str | None, Children], list[Check]] = checks) -> Iterator[Finding]:
    """Yield what the checks find, in their order, each as soon as it is known.

    Args:
        output: The place of the output to come; None: none is known yet.
        made: Returns the checks.
    """
    children = Children()
    try:
        started = [(check, _started(check)) for check in made(output, children)]
        for check, answers in started:
            try:
                yield from answers.get(timeout=check.seconds)
            except queue.Empty:
                text = f"no answer within {check.seconds:.0f} s"
                yield warning(
                    check.name, text, "try again when the machine is less busy; if it stays so, something hangs"
                )
    finally:
        children.end()


def _started(check: Check) -> queue.SimpleQueue[list[Finding]]:
    """Start a check in a separate thread, which a job's end does not wait for."""
    answers: queue.SimpleQueue[list[Finding]] = queue.SimpleQueue()

    def work() -> None:
        found: list[Finding] = []
        try:
            found.extend(check.run())
        except BaseException as error:  # whatever is wrong with it, the others go on
            found.append(to_fix(check.name, f"cannot be looked at: {named(error)}", AGAIN))
        answers.put(found)

    threading.Thread(target=work, name=f"read-{check.name}", daemon=True).start()
    return answers
