"""What a start costs, held by its structure: what is imported, how often files are read, and no clock."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from tests.small_runs import INLINE, MODEL, overrides, python, write

# Installed beside us or not, no inline run needs them.
UNNEEDED = (
    "accelerate",
    "datasets",
    "duckdb",
    "llguidance",
    "matplotlib",
    "pandas",
    "peft",
    "pipeline.engine.gpu.attention_kernels",
    "pipeline.engine.gpu.cache_kernels",
    "pipeline.engine.gpu.sampler_kernels",
    "pipeline.engine.gpu.threshold_kernels",
    "polars",
    "pytest",
    "ray",
    "scipy",
    "sklearn",
    "sympy",
    "torch._inductor",
    "torch.distributed.tensor",
    "torchvision",
    "triton",
)

WATCHED = """
import collections, gc, json, sys
hashed, started = collections.Counter(), []

def watch(event, arguments):
    if event in ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.system"):
        started.append(event)

sys.addaudithook(watch)
from jobs.cli import main
from pipeline.engine.model.files import digests

def sha256(self, path, computed=digests._Count.sha256):
    hashed[str(path)] += 1
    return computed(self, path)

digests._Count.sha256 = sha256
code = main(sys.argv[1:])
models = [type(thing).__name__ for thing in gc.get_objects() if type(thing).__name__ in ("ModelRunner", "LoadedModel")]
modules = sorted(name for name, module in sys.modules.items() if module is not None)
print(json.dumps({"modules": modules, "hashed": hashed, "started": started, "models": models,
                  "collecting": gc.isenabled(), "frozen": gc.get_freeze_count()}))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("start")
    source = write(pa.table({"prompt": ["The train to", "Lost"]}), folder / "in.parquet")
    done = python(WATCHED, "generate", *overrides(source, folder / "out", *INLINE))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_nothing_is_imported_that_an_inline_run_does_not_use(seen: dict[str, Any]) -> None:
    assert {"torch", "transformers", "pyarrow"} <= set(seen["modules"]), "the list means something"
    assert [name for name in UNNEEDED if name in seen["modules"]] == []


def test_no_process_is_started(seen: dict[str, Any]) -> None:
    assert seen["started"] == []


def test_the_weights_are_hashed_once(seen: dict[str, Any]) -> None:
    assert seen["hashed"][str(MODEL / "model.safetensors")] == 1


def test_what_the_imports_made_is_left_out_of_garbage_collections(seen: dict[str, Any]) -> None:
    assert seen["frozen"] > 100_000
    assert seen["collecting"]


def test_the_model_goes_with_its_run(seen: dict[str, Any]) -> None:
    """A sweep would hold two, and the report is made when its memory is needed no longer."""
    assert seen["models"] == []
