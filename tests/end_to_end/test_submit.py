"""`promptmill submit` to a real cluster with a job server and a token, on loopback."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.small_runs import MODEL, PATIENCE, REPOSITORY, assert_same_rows, events, generate, prompts, wait_until, write

pytestmark = pytest.mark.ray
pytest.importorskip("aiohttp", reason="Ray's job server needs ray[default]")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """A head with its job server; what to set to speak to it."""
    folder = tempfile.mkdtemp(prefix="pm-ray-", dir="/tmp")
    port = free_port()
    environment = {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0", "PYTHONPATH": str(REPOSITORY),
    }  # fmt: skip
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
        f"--port={free_port()}", f"--dashboard-port={port}", "--include-dashboard=true", "--num-cpus=1",
        # The agent takes the jobs; its usual port is that of any other Ray on this machine, too.
        f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir={folder}", "--disable-usage-stats",
    ]  # fmt: skip

    def start() -> subprocess.Popen[bytes]:
        head = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        assert wait_until(lambda: answers(port) or head.poll() is not None)
        return head

    end = time.monotonic() + PATIENCE
    while (head := start()).poll() is not None:  # Ray gives up early on a busy machine
        assert time.monotonic() < end
    try:
        yield {**environment, "ADDRESS": f"http://127.0.0.1:{port}"}
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(PATIENCE)
        shutil.rmtree(folder, ignore_errors=True)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def submit(server: dict[str, str], *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs", "submit", *words, f"address={server['ADDRESS']}"]
    return subprocess.Popen(command, env={**os.environ, **server}, stdout=-1, stderr=subprocess.STDOUT, text=True)


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    text, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, text


def test_submitted_twice_at_once_it_runs_once(server: dict[str, str], tmp_path: Path) -> None:
    source, output = write(prompts(12), tmp_path / "in.parquet"), tmp_path / "out"
    job = (
        "submission_id=night", f"python={sys.executable}", f"model.path={MODEL}", f"source.path={source}",
        f"output.path={output}", "sampling.max_tokens=8", "output.rows_per_shard=4",
    )  # fmt: skip
    both = [submit(server, *job) for _ in range(2)]
    (one, first), (two, second) = [finished(process) for process in both]
    assert (one, two) == (0, 0), first + second
    assert len(events(output, "driver_start")) == 1
    assert "complete" in first and "complete" in second, "both show what it prints"
    assert "Uploading" not in first + second and "WebSocket" not in first + second, "nothing of Ray's own"
    code, text = finished(submit(server, *job))
    assert (code, text) == (0, "promptmill: night: has already ended; nothing is started\n")
    assert generate(source, tmp_path / "here", "output.rows_per_shard=4") == 0
    assert_same_rows(tmp_path / "here", output)


def test_the_exit_code_is_the_jobs_and_a_token_is_needed(server: dict[str, str], tmp_path: Path) -> None:
    words = ("job=verify", "submission_id=proof", f"python={sys.executable}", f"output.path={tmp_path}/nothing")
    code, text = finished(submit(server, *words))
    assert code == 2, text
    assert "promptmill: proof: FAILED, exit code 2: promptmill: output.path=" in text.splitlines()[-1]
    assert finished(submit(server, "status", "submission_id=proof")) == (0, "proof: FAILED, exit code 2\n")
    code, text = finished(submit({**server, "RAY_AUTH_TOKEN": secrets.token_hex(32)}, "status", "submission_id=proof"))
    assert code == 2
    assert "the cluster requires its own token" in text
