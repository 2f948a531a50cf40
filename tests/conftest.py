"""What holds for every test: threads that sleep while they wait, no log that stays, and a module's source and reference run."""

from __future__ import annotations

import functools
import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from pipeline.machine import cores
from tests.small_runs import Stage, generate, prompts, write

ROOT = Path(__file__).parents[1]

# What the checks at loading find is not kept: a test's kernel must not be found in the user's cache, nor in another test.
os.environ["PROMPTMILL_CACHE"] = ""
# Read when torch is loaded. On busy cores, two spinning threads make a test of half a second last a quarter of a minute.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Where each core has a process of tests, a thread for each core in all of them would only wait for the others'.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Read when Triton is loaded, which parts of torch do by themselves: where there is no GPU, its kernels are interpreted.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# `make test` tries the same examples every time, so that it says something about a change; `make fuzz` tries new ones.
settings.register_profile(
    "same",
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize=True,
)
settings.register_profile("new", settings.get_profile("same"), max_examples=100, derandomize=False)
settings.load_profile("same")


@functools.cache
def starts_a_ray(file: str) -> bool:
    """Whether there are tests in a file, given from the project's folder, that start a Ray."""
    return "pytest.mark.ray" in (ROOT / file).read_text(encoding="utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that start a Ray: they take longest."""
    items.sort(key=lambda item: not starts_a_ray(item.nodeid.partition("::")[0]))


def pytest_collection_finish() -> None:
    """Have the collector not look again and again at what lives until the end: the libraries and thousands of tests."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """With `pytest -n auto`: a process for each core, four at the most, and one more for the Rays, which mostly waits."""
    return min(4, cores()) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `pytest -n`: a file's tests share a process and what they set up, and so do all files that start a Ray.

    Two Rays at once would leave a machine of two cores no time to notice what died.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "ray" if starts_a_ray(file) else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Keep a run's log out of the next test."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:], logging.root.level = handlers, level


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of as many prompts as the module's ROWS says."""
    return write(prompts(request.module.ROWS), tmp_path_factory.mktemp("in") / "prompts.parquet")


@pytest.fixture(scope="module")
def reference(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of `source` with the module's OPTIONS, made in this process by a run that nobody disturbed."""
    output = tmp_path_factory.mktemp("reference") / "out"
    assert generate(source, output, *request.module.OPTIONS) == 0
    return output


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """A gate at which each process of a run waits after its first part."""
    return Stage(tmp_path / "stage")
