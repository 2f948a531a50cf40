"""What can be told of the image without building it; `make image-test` builds it and runs it."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.docker.manifests import DOCKER

ROOT = DOCKER.parent
STEPS = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()


def copied() -> list[str]:
    """What the image is made of, as the Dockerfile names it."""
    sources: list[str] = []
    for step in STEPS:
        words = step.split()
        if words[:1] == ["COPY"] and not any(word.startswith("--from=") for word in words):
            sources += [word for word in words[1:-1] if not word.startswith("--")]
    return sources


def test_what_is_copied_is_there_and_nothing_else_is_sent() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    assert sorted(line[1:] for line in patterns if line.startswith("!")) == sorted(copied())
    for source in copied():
        assert (ROOT / source).exists(), source


LAST = STEPS[max(n for n, step in enumerate(STEPS) if step.startswith("FROM")) :]


def test_the_last_stage_is_nobodys_and_has_no_pip() -> None:
    assert [step for step in LAST if step.startswith("USER")] == ["USER 10001:10001"]
    assert not [step for step in LAST if "pip" in step]


@pytest.mark.parametrize(("build", "more"), [("cpu", []), ("cuda", ["gcc", "libc6-dev"])])
def test_only_an_image_for_gpus_has_a_compiler(build: str, more: list[str]) -> None:
    """As the shell of the build has it: Triton needs one when kernels are first used."""
    assert "ARG TORCH_BUILD=cpu" in LAST
    (step,) = [step for step in LAST if "apt-get install" in step]
    install = next(command for command in step.split("&&") if "apt-get install" in command)
    told = subprocess.run(
        ["sh", "-ec", f"echo {install.replace(chr(92), ' ')}"], env={"PATH": os.environ["PATH"], "TORCH_BUILD": build},
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert told[told.index("--no-install-recommends") + 1 :] == ["ca-certificates", "tini", *more]


class Agent(BaseHTTPRequestHandler):
    answer = b"success"

    def do_GET(self) -> None:
        assert self.path == "/api/local_raylet_healthz"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Agent) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def healthy(monkeypatch: pytest.MonkeyPatch, port: int, first: bytes) -> int:
    monkeypatch.setenv("PROMPTMILL_AGENT_PORT", str(port))
    monkeypatch.setattr(Path, "read_bytes", lambda path: {"/proc/1/cmdline": first}[str(path)])
    module: dict[str, Any] = runpy.run_path(str(DOCKER / "healthy.py"))
    code: int = module["main"]()
    return code


NODES = [
    b"/opt/promptmill/bin/python\0/opt/promptmill/bin/ray\0start\0--head\0--block\0",
    b"tini\0--\0ray\0start\0--address=head:6379\0--block\0",
    b"/bin/bash\0-c\0--\0ulimit -n 65536; ray start --head  --num-cpus=0 \0",
]
JOBS = [b"tini\0--\0promptmill\0generate\0source.path=ray\0", b"bash\0-c\0array start\0", b"/pause\0"]


@pytest.mark.parametrize("first", NODES)
def test_a_node_is_healthy_when_its_raylet_says_so(monkeypatch: pytest.MonkeyPatch, port: int, first: bytes) -> None:
    assert healthy(monkeypatch, port, first) == 0
    monkeypatch.setattr(Agent, "answer", b"Local raylet is down")
    assert healthy(monkeypatch, port, first) == 1


@pytest.mark.parametrize("first", NODES)
def test_a_node_without_an_agent_is_not_healthy(monkeypatch: pytest.MonkeyPatch, first: bytes) -> None:
    with HTTPServer(("127.0.0.1", 0), Agent) as taken:
        free = taken.server_port
    with pytest.raises(OSError, match="refused"):  # which ends the command with exit code 1
        healthy(monkeypatch, free, first)


@pytest.mark.parametrize("first", JOBS)
def test_a_job_is_healthy_while_it_is_there(monkeypatch: pytest.MonkeyPatch, first: bytes) -> None:
    assert healthy(monkeypatch, 1, first) == 0


@pytest.mark.parametrize(("cuda", "build"), [("None", "cpu"), ("'13.0'", "cuda")])
def test_another_build_of_torch_than_was_wanted_ends_the_build(tmp_path: Path, cuda: str, build: str) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(f"cuda = {cuda}\n")
    (tmp_path / "torch-1.dist-info").mkdir()
    (tmp_path / "torch-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1\n")
    for wanted in ("cpu", "cuda"):
        script = f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['', {wanted!r}]; "
        script += f"runpy.run_path({str(DOCKER / 'torch_build.py')!r})"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=900, check=False)
        assert (done.returncode == 0) == (wanted == build), done.stderr
        assert done.returncode == 0 or f"TORCH_BUILD={build}" in done.stderr
