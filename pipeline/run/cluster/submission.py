"""Submits a job to a Ray cluster through Ray's Jobs API, once however often it is called, follows it and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pipeline.errors import ClusterLost, ConfigurationError
from pipeline.run.cluster.connect import RayError, reason

LOST_SECONDS = 60.0
"""Seconds without an answer after which the cluster's job server counts as lost."""
START_SECONDS = 300.0
"""Seconds for which a cluster that has just started may not accept jobs yet."""
LOOK_SECONDS = 1.0
"""Seconds between checks whether a job has ended."""
CHATTY = ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk")
"""Loggers of Ray's client, which set their level themselves."""
STOPPED = 143
"""Exit code of a job that was stopped: Ray sends it SIGTERM."""


class Handed(Enum):
    """The result of a submission."""

    NEW = "submitted"
    AGAIN = "submitted again: it had ended without success"
    RUNNING = "already exists, and is followed"
    DONE = "has already ended; nothing is started"


@dataclass(frozen=True, slots=True)
class State:
    """The state of a submitted job.

    Attributes:
        status: Ray's status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        command: Its command line.
        message: Ray's message about it.
        exit_code: The job's exit code; None while it has not ended.
    """

    status: str
    command: str
    message: str
    exit_code: int | None


class JobServer:
    """The job server of a cluster.

    Args:
        address: Its address, such as http://head:8265; None: from Ray's environment variables, or this machine.

    Raises:
        ClusterLost: If it does not answer.
        ConfigurationError: If the address is invalid, Ray's job client is not installed, or the cluster requires a token.
    """

    def __init__(self, address: str | None) -> None:
        """Connect."""
        self._shown = address or "this machine"
        self._seen = 0  # characters of the log that belong to an earlier try
        from ray.job_submission import JobSubmissionClient  # imported late: it loads a web client

        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
        with _asking(f"address={self._shown}"):
            self._client: Any = JobSubmissionClient(address)

    def submit(self, submission_id: str, command: str, folder: Path) -> Handed:
        """Have the cluster run a command in a folder, unless a job of this id is running or has succeeded.

        A job of this id that failed is submitted again and resumes.

        Raises:
            ConfigurationError: If the id belongs to another command.
        """
        before = self.state(submission_id)
        if before is not None:
            if before.command != command:
                raise ConfigurationError(f"submission_id={submission_id}: belongs to another command: {before.command}")
            if before.status == "SUCCEEDED":
                return Handed.DONE
            if before.exit_code is None:
                return Handed.RUNNING
            self._forget(submission_id)
        try:
            self._submit(submission_id, command, folder)
        except ConfigurationError as error:
            if "already exists" not in str(error.__cause__):
                raise
            now = self.known(submission_id)  # another client was faster
            if now.exit_code is None:
                return Handed.RUNNING
            raise ConfigurationError(
                f"submission_id={submission_id}: the cluster does not delete its last attempt, which ended with exit code "
                f"{now.exit_code}; take another submission_id"
            ) from error
        return Handed.NEW if before is None else Handed.AGAIN

    def state(self, submission_id: str) -> State | None:
        """Return the state of a job; None if no job has this id."""
        try:
            with _asking(f"submission_id={submission_id}"):
                info = self._client.get_job_info(submission_id)
        except ConfigurationError as error:
            if "does not exist" in str(error.__cause__):
                return None
            raise
        status = str(info.status)
        return State(status, info.entrypoint, info.message or "", _exit_code(status, info.driver_exit_code))

    def follow(self, submission_id: str, show: Callable[[str], None]) -> State:
        """Show a job's output until it ends; network interruptions of less than a minute are tolerated.

        Raises:
            ClusterLost: If the job server, or the job, is gone.
        """
        shown = _Shown(show, self._seen)
        failing: tuple[float, int] | None = None  # since when, and how much had been shown then
        while True:
            try:
                asyncio.run(self._show(submission_id, shown))
                state = self.state(submission_id)
            except (ClusterLost, ConfigurationError) as error:
                now = time.monotonic()
                if failing is None or shown.total > failing[1]:
                    failing = now, shown.total
                if now - failing[0] >= LOST_SECONDS:
                    raise ClusterLost(
                        f"the job server at {self._shown} has not answered for {LOST_SECONDS:g} s ({reason(error)}); the job "
                        "may be running still: submit it again with the same submission_id to follow it"
                    ) from error
            else:
                failing = None
                if state is None:
                    raise ClusterLost(f"{submission_id} is no longer known to the cluster at {self._shown}")
                if state.exit_code is not None:
                    return state
            time.sleep(LOOK_SECONDS)

    def stop(self, submission_id: str) -> State:
        """Stop a job, and wait until it has ended.

        Raises:
            ConfigurationError: If no job has this id.
        """
        state = self.known(submission_id)
        if state.exit_code is None:
            with _asking("stop"):
                self._client.stop_job(submission_id)
        while state.exit_code is None:
            time.sleep(LOOK_SECONDS)
            state = self.known(submission_id)
        return state

    def known(self, submission_id: str) -> State:
        """How a job stands.

        Raises:
            ConfigurationError: If no job has this id.
        """
        state = self.state(submission_id)
        if state is None:
            raise ConfigurationError(f"submission_id={submission_id}: the cluster at {self._shown} knows no such job")
        return state

    def _submit(self, submission_id: str, command: str, folder: Path) -> None:
        """Submit, as soon as the cluster accepts jobs."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                with _asking("submit"):
                    self._client.submit_job(
                        entrypoint=command, submission_id=submission_id, runtime_env={"working_dir": str(folder)}
                    )
                return
            except ConfigurationError as error:
                if "try again later" not in str(error.__cause__) or time.monotonic() > end:
                    raise
            time.sleep(LOOK_SECONDS)

    async def _show(self, submission_id: str, shown: _Shown) -> None:
        shown.begin()
        try:
            async for text in self._client.tail_job_logs(submission_id):
                shown.take(text)
        except Exception as error:  # the web client's exceptions have no other common base
            raise ClusterLost(f"its log is interrupted: {reason(error)}") from error

    def _forget(self, submission_id: str) -> None:
        """Delete the last try. Ray refuses that if another client has already resubmitted the job."""
        try:
            with _asking("log"):
                self._seen = len(self._client.get_job_logs(submission_id))
        except ConfigurationError as error:
            logging.getLogger(__name__).debug("the old log of %s cannot be read: %s", submission_id, reason(error))
        try:
            with _asking("delete"):
                self._client.delete_job(submission_id)
        except ConfigurationError as error:
            logging.getLogger(__name__).debug("%s is not forgotten: %s", submission_id, reason(error))


class _Shown:
    """Prints a log once, although it is sent from its beginning after each interruption."""

    def __init__(self, show: Callable[[str], None], seen: int) -> None:
        self._show, self._before, self._now = show, seen, 0

    @property
    def total(self) -> int:
        return max(self._before, self._now)

    def begin(self) -> None:
        self._before, self._now = max(self._before, self._now), 0

    def take(self, text: str) -> None:
        new = text[max(0, self._before - self._now) :]
        self._now += len(text)
        if new:
            self._show(new)


def _exit_code(status: str, of_the_driver: int | None) -> int | None:
    """Return the exit code of an ended job; after a signal, 128 plus its number, as in a shell."""
    if status in ("PENDING", "RUNNING"):
        return None
    if status == "STOPPED":
        return STOPPED
    if of_the_driver is None:
        return 0 if status == "SUCCEEDED" else 1
    return of_the_driver if of_the_driver >= 0 else 128 - of_the_driver


@contextlib.contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turn exceptions of Ray's client into errors of one line."""
    try:
        yield
    except OSError as error:
        raise ClusterLost(
            f"{what}: Ray's job server does not answer ({reason(error)}); it is at port 8265 of a cluster's head, unless its "
            "dashboard is off"
        ) from error
    except (RuntimeError, ValueError, RayError) as error:
        text = " ".join(str(error).split())
        if "ray[default]" in text:
            raise ConfigurationError(
                "submit needs Ray's job client: pip install -c constraints.txt -e '.[cluster]'"
            ) from error
        if "authenti" in text.lower():
            raise ConfigurationError(
                f"{what}: the cluster requires its own token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH"
            ) from error
        raise ConfigurationError(f"{what}: {text[:300]}") from error
