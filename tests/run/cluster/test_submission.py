"""A submission, with a job server that is made up; `tests/end_to_end/test_submit.py` has a real one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipeline.errors import ClusterLost, ConfigurationError
from pipeline.run.cluster import submission
from pipeline.run.cluster.submission import Handed, JobServer


@dataclass
class Info:
    status: str
    entrypoint: str
    message: str | None = None
    driver_exit_code: int | None = None


@dataclass
class FakeClient:
    """What a job server knows, and what becomes of it at each look at a log."""

    address: str | None
    jobs: ClassVar[dict[str, Info]] = {}
    logs: ClassVar[list[list[str | Exception]]] = []
    calls: ClassVar[list[str]] = []
    ends: ClassVar[list[Info]] = []
    busy: ClassVar[list[str]] = []
    fault: ClassVar[Exception | None] = None
    log: str = field(default="")

    def __post_init__(self) -> None:
        if self.fault is not None:
            raise self.fault

    def get_job_info(self, name: str) -> Info:
        if name not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {name} does not exist.")
        return self.jobs[name]

    def submit_job(self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any]) -> str:
        assert list(runtime_env) == ["working_dir"], "no variables go along, and so no secrets"
        self.calls.append(f"submit {submission_id}")
        if self.busy:
            raise RuntimeError(self.busy.pop())
        if submission_id in self.jobs:
            raise RuntimeError(f"{'x' * 1000} Job with submission_id {submission_id} already exists.")
        self.jobs[submission_id] = Info("PENDING", entrypoint)
        return submission_id

    def delete_job(self, name: str) -> bool:
        self.calls.append(f"delete {name}")
        del self.jobs[name]
        return True

    def stop_job(self, name: str) -> bool:
        self.calls.append(f"stop {name}")
        self.jobs[name] = Info("STOPPED", self.jobs[name].entrypoint)
        return True

    def get_job_logs(self, name: str) -> str:
        if self.jobs[name].message == "its node is gone":
            raise RuntimeError("status code 500")
        return "the first try\n"

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        for piece in self.logs.pop(0):
            if isinstance(piece, Exception):
                raise piece
            yield piece
        if not self.logs:
            self.jobs[name] = self.ends.pop(0)


@pytest.fixture(autouse=True)
def client(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", FakeClient)
    monkeypatch.setattr(submission, "LOOK_SECONDS", 0.0)
    for name, empty in (("jobs", {}), ("logs", []), ("calls", []), ("ends", []), ("busy", []), ("fault", None)):
        monkeypatch.setattr(FakeClient, name, empty)
    return FakeClient


def test_a_new_one_is_submitted_and_one_that_runs_or_is_through_is_not(client: type[FakeClient]) -> None:
    server = JobServer(None)
    assert server.submit("night", "run me", Path()) is Handed.NEW
    assert server.submit("night", "run me", Path()) is Handed.RUNNING
    client.jobs["night"] = Info("SUCCEEDED", "run me", driver_exit_code=0)
    assert server.submit("night", "run me", Path()) is Handed.DONE
    assert client.calls == ["submit night"]


def test_a_cluster_that_is_not_ready_yet_is_asked_again(
    client: type[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    client.busy += ["status code 500: No available agent to submit job, please try again later."] * 2
    assert JobServer(None).submit("night", "run me", Path()) is Handed.NEW
    assert client.calls == ["submit night"] * 3
    client.busy += ["status code 500: something else"]
    with pytest.raises(ConfigurationError, match="something else"):
        JobServer(None).submit("day", "run me", Path())


def test_one_that_failed_is_submitted_again_and_its_old_log_is_not_shown(client: type[FakeClient]) -> None:
    client.jobs["night"] = Info("FAILED", "run me", driver_exit_code=75)
    client.logs += [["the first try\n", "the second\n"]]
    client.ends += [Info("SUCCEEDED", "run me", driver_exit_code=0)]
    server, shown = JobServer(None), list[str]()
    assert server.submit("night", "run me", Path()) is Handed.AGAIN
    assert server.follow("night", shown.append).exit_code == 0
    assert (client.calls, shown) == (["delete night", "submit night"], ["the second\n"])


def test_one_whose_log_is_gone_is_submitted_again_all_the_same(client: type[FakeClient]) -> None:
    client.jobs["night"] = Info("FAILED", "run me", "its node is gone", 1)
    assert JobServer(None).submit("night", "run me", Path()) is Handed.AGAIN


def test_an_id_is_one_commands(client: type[FakeClient]) -> None:
    client.jobs["night"] = Info("SUCCEEDED", "another")
    with pytest.raises(ConfigurationError, match="night: belongs to another command: another"):
        JobServer(None).submit("night", "run me", Path())


@pytest.mark.parametrize("ended", [False, True])
def test_of_two_that_submit_at_once_the_second_follows_the_first(
    client: type[FakeClient], monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    client.jobs["night"] = Info("FAILED" if ended else "RUNNING", "run me", driver_exit_code=75 if ended else None)
    server = JobServer(None)
    later = [None, server.state("night")]  # what the first look finds, and the second
    monkeypatch.setattr(server, "state", lambda name: later.pop(0))
    if ended:
        with pytest.raises(ConfigurationError, match="ended with exit code 75; take another submission_id"):
            server.submit("night", "run me", Path())
    else:
        assert server.submit("night", "run me", Path()) is Handed.RUNNING


@pytest.mark.parametrize(
    ("info", "code"),
    [
        (Info("PENDING", ""), None), (Info("RUNNING", ""), None), (Info("STOPPED", ""), 143),
        (Info("SUCCEEDED", "", driver_exit_code=0), 0), (Info("SUCCEEDED", ""), 0), (Info("FAILED", ""), 1),
        (Info("FAILED", "", driver_exit_code=3), 3), (Info("FAILED", "", driver_exit_code=-9), 137),
    ],
)  # fmt: skip
def test_the_exit_code_is_the_jobs(client: type[FakeClient], info: Info, code: int | None) -> None:
    client.jobs["night"] = info
    assert JobServer(None).known("night").exit_code == code


def test_a_log_goes_on_where_the_network_was_lost(client: type[FakeClient]) -> None:
    client.jobs["night"] = Info("RUNNING", "run me")
    client.logs += [["one\n", "tw", OSError("reset")], [RuntimeError("closed")], ["one\ntwo\n", "three\n"]]
    client.ends += [Info("FAILED", "run me", driver_exit_code=3)]
    shown = list[str]()
    assert JobServer(None).follow("night", shown.append).exit_code == 3
    assert "".join(shown) == "one\ntwo\nthree\n"


def test_a_server_that_stays_away_is_lost(client: type[FakeClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "LOST_SECONDS", 0.0)
    client.jobs["night"] = Info("RUNNING", "run me")
    client.logs += [[OSError("reset")]]
    with pytest.raises(ClusterLost, match="submit it again with the same submission_id to follow it"):
        JobServer("http://head:1").follow("night", print)


def test_a_network_that_fails_after_a_long_time_is_forgiven(
    client: type[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**6, 50))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    client.jobs["night"] = Info("RUNNING", "run me")
    client.logs += [["one\n", Exception("server disconnected")], ["one\n", "two\n", Exception("502")], ["one\ntwo\n"]]
    client.ends += [Info("SUCCEEDED", "run me", driver_exit_code=0)]
    assert JobServer(None).follow("night", print).exit_code == 0


def test_stopping_waits_for_the_end_and_leaves_what_has_ended(client: type[FakeClient]) -> None:
    client.jobs["night"] = Info("RUNNING", "run me")
    server = JobServer(None)
    assert [server.stop("night").exit_code for _ in range(2)] == [143, 143]
    assert client.calls == ["stop night"]
    with pytest.raises(ConfigurationError, match="knows no such job"):
        server.stop("another")


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (ConnectionError("refused"), ClusterLost, "job server does not answer"),
        (RuntimeError("require the ray[default] installation"), ConfigurationError, "pip install"),
        (RuntimeError("Authentication required"), ConfigurationError, "RAY_AUTH_TOKEN_PATH"),
        (ValueError("unexpected address"), ConfigurationError, "address=head:1: unexpected address"),
    ],
)
def test_why_a_cluster_cannot_be_spoken_to(
    client: type[FakeClient], monkeypatch: pytest.MonkeyPatch, fault: Exception, kind: type[Exception], words: str
) -> None:
    monkeypatch.setattr(client, "fault", fault)
    with pytest.raises(kind) as error:
        JobServer("head:1")
    assert words in str(error.value)
