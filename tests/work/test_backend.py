"""An engine of another kind is a file, a line in the registry and a yaml: a whole job runs with it, without torch."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.small_runs import copy_of_the_code, promptmill, write

ECHO = '''"""An engine that gives back its prompt; its tokens are bytes."""

from pipeline.engine.base import BuiltEngine, Identity
from pipeline.errors import ModelRefused
from pipeline.types import Completion, FinishReason, Room


class Bytes:
    bos_token_id, vocab_size = None, 256

    def encode_batch(self, texts, special=None):
        return [list(text.encode()) for text in texts]

    def token(self, token_id):
        return chr(token_id)


class Echo:
    room = Room(1)

    def __init__(self):
        self.waiting = []

    def add(self, requests):
        self.waiting += requests

    def load(self):
        return 0, len(self.waiting)

    def step(self):
        done = [self.waiting.pop(0)] if self.waiting else []
        return [Completion(r, r.prompt_token_ids, bytes(r.prompt_token_ids).decode(), FinishReason.STOP) for r in done]


class EchoBackend:
    def __init__(self, model, engine):
        self.model, self.engine = model, engine

    def identify(self, *, gpus, fresh=False):
        if gpus:
            raise ModelRefused("engine=echo: runs on processors only")
        return Identity({}, {}, {}, "auto", 1000, 256, 0, 1, frozenset(), lists=False)

    def check(self, sampling):
        if sampling.stop:
            raise ValueError("stop: an echo does not stop")
        return ()

    def build(self, stats, resources):
        return BuiltEngine(Echo(), Bytes(), 1000, self.check, {"engine": "echo"}, Echo)
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with the engine, its line and its yaml, and a torch that cannot be imported."""
    folder = copy_of_the_code(tmp_path_factory.mktemp("project"))
    (folder / "pipeline" / "engine" / "echo.py").write_text(ECHO)
    registry = folder / "pipeline" / "engine" / "registry.py"
    line = '    "static": "pipeline.engine.own:StaticBackend",\n'
    assert line in registry.read_text()
    added = f'{line}    "echo": "pipeline.engine.echo:EchoBackend",\n'
    registry.write_text(registry.read_text().replace(line, added))
    (folder / "conf" / "engine" / "echo.yaml").write_text("# gives back the prompt\nname: echo\n")
    for name in ("torch", "transformers"):
        (folder / f"{name}.py").write_text(f"raise ImportError('no {name} here')\n")
    write({"prompt": ["one", "zwölf", None, "x" * 2000]}, folder / "in.parquet")
    return folder


GPU = ("cluster=existing", "cluster.address=auto", "cluster.gpus_per_replica=1")
"""On a cluster, which may have a GPU where this machine has none."""


def generate(project: Path, out: str, *words: str) -> subprocess.CompletedProcess[str]:
    given = ["engine=echo", "cluster=inline", "source.path=in.parquet", f"output.path={out}", "output.report=false"]
    return promptmill(project, "generate", *given, *words)


def test_a_whole_job_runs_with_it(project: Path) -> None:
    done = generate(project, "out", "stats.columns=[]")
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(project / "out" / "data").to_pylist()
    assert [row["text"] for row in rows] == ["one", "zwölf", None, None]
    assert [row["error_code"] for row in rows] == [None, None, "NULL_PROMPT", "PROMPT_TOO_LONG"]
    assert rows[1]["token_ids"] == list("zwölf".encode())
    manifest = json.loads((project / "out" / "_job" / "manifest.json").read_text())
    assert manifest["environment"]["engine"] == "echo"
    verified = promptmill(project, "verify", "output.path=out")
    assert (verified.returncode, verified.stdout) == (0, "complete and intact: 1 part, 4 input rows, 4 output rows\n")
    assert "nothing to do" in generate(project, "out", "stats.columns=[]").stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "stats.columns: engine=echo cannot measure logprob, entropy, rank; it can none"),
        (["stats.columns=[]", "stats.top_logprobs=3"], "stats.top_logprobs: engine=echo cannot give these"),
        (["stats.columns=[]", "sampling.stop=[x]"], "sampling.stop: an echo does not stop"),
        (["stats.columns=[]", *GPU], "engine=echo: runs on processors only"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(project: Path, words: list[str], told: str) -> None:
    done = generate(project, "refused", *words)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"promptmill: {told}")
    assert not (project / "refused").exists()


def test_its_time_is_not_predicted_and_that_is_said(project: Path) -> None:
    given = ["engine=echo", "cluster=inline", "source.path=in.parquet", "output.path=planned", "stats.columns=[]"]
    done = promptmill(project, "plan", *given)
    assert done.returncode == 0, done.stderr
    assert "time      not predicted: engine=echo does not say how long it takes" in done.stdout
    assert "1 file, 4 rows" in done.stdout and not (project / "planned").exists()
