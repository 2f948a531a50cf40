"""The script in cronjob.yaml, run as it stands there against an API server that is made up."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import certifi
import pytest
import yaml

from tests.docker.manifests import KUBERAY, objects


class Server(HTTPServer):
    """Answers with the status codes it is given, in turn, and keeps what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses: list[int] = []
        self.asked: list[tuple[str, dict[str, str], str]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append((self.path, dict(self.headers), body))
        self.send_response(self.server.statuses.pop(0))
        self.end_headers()
        self.wfile.write(b"because")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(server: Server, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "token").write_text("abc")
    (folder / "namespace").write_text("nights")
    (folder / "ca.crt").write_bytes(Path(certifi.where()).read_bytes())
    cron = dict(objects())["cronjob.yaml:CronJob"]
    (container,) = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][:2] == ["python", "-c"]
    given = {
        "API": f"http://127.0.0.1:{server.server_port}",
        "ACCOUNT": str(folder),
        "RAYJOB": str(KUBERAY / "rayjob.yaml"),
    }
    assert set(given) == {variable["name"] for variable in container["env"]}
    environment = {**os.environ, **given, "no_proxy": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, *container["command"][1:]],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip


def test_it_puts_the_job_of_the_night(server: Server, tmp_path: Path) -> None:
    server.statuses = [201]
    before = datetime.now() - timedelta(hours=12)
    done = run(server, tmp_path)
    after = datetime.now() - timedelta(hours=12)
    assert done.returncode == 0, done.stderr
    ((path, headers, body),) = server.asked
    assert path == "/apis/ray.io/v1/namespaces/nights/rayjobs"
    assert headers["Authorization"] == "Bearer abc"
    assert headers["Content-Type"] == "application/yaml"
    job = yaml.safe_load(body)
    assert job["kind"] == "RayJob"
    night = job["metadata"]["name"].removeprefix("promptmill-")
    assert night in {f"{before:%Y-%m-%d}", f"{after:%Y-%m-%d}"}
    assert job["spec"]["entrypoint"].endswith(f"output.path=s3://bucket/nightly/{night}")


def test_a_job_that_is_there_already_is_left_alone(server: Server, tmp_path: Path) -> None:
    server.statuses = [409]
    done = run(server, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "is there already" in done.stdout


def test_a_refusal_fails_the_pod_so_that_it_is_tried_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [403]
    done = run(server, tmp_path)
    assert done.returncode == 1
    assert "403 because" in done.stderr
