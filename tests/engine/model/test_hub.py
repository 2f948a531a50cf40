"""The path over the hub, against a server that imitates it: what a node's replicas fetch when they start together."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.engine.small.tiny_models import DEMO

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/small"
REPOSITORY = Path(__file__).parents[3]


class Hub(ThreadingHTTPServer):
    """Serves the demo model as the hub does, slowly, and counts what is fetched."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {p.name: p.read_bytes() for p in DEMO.iterdir() if p.suffix in (".json", ".safetensors")}
        self.fetched: Counter[str] = Counter()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        files = self.server.files
        if path.startswith(f"/api/models/{NAME}/tree/"):
            tree = [
                {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                for n, d in files.items()
            ]
            self._send(json.dumps(tree).encode(), body)
        elif path.startswith(f"/api/models/{NAME}"):
            self._send(
                json.dumps({"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}).encode(), body
            )
        elif path.startswith(f"/{NAME}/resolve/{COMMIT}/"):
            name = path.rpartition("/")[2]
            if body:
                self.server.fetched[name] += 1
                time.sleep(0.3)  # long enough for another to come meanwhile
            self._send(files[name], body)
        else:
            self.send_error(404)

    def _send(self, data: bytes, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_replicas_of_a_node_that_start_together_download_the_weights_once(hub: Hub, tmp_path: Path) -> None:
    code = (
        "from pipeline.engine.model.files.checkpoint import resolve; from pipeline.engine.config import ModelConfig; "
        f"print(resolve(ModelConfig(path={NAME!r})).directory)"
    )
    environment = {
        **os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    environment.pop("HF_HUB_CACHE", None)
    replicas = [
        subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, env=environment, stdout=-1, text=True)
        for _ in range(3)
    ]
    said = [replica.communicate(timeout=60)[0].strip() for replica in replicas]
    assert len(set(said)) == 1 and said[0].endswith(COMMIT)
    assert (Path(said[0]) / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert hub.fetched == dict.fromkeys(hub.files, 1)
