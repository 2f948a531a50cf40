"""What holds for every test: threads that sleep while they wait, and no test that fails because a machine is busy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# What the checks at loading find is not kept: a test's kernel must not be found in the user's cache, nor in another test.
os.environ["PROMPTMILL_CACHE"] = ""
# Read when torch is loaded. On busy cores, two spinning threads make a test of half a second last a quarter of a minute.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Read when Triton is loaded, which parts of torch do by themselves: where there is no GPU, its kernels are interpreted.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# `make test` tries the same examples every time, so that it says something about a change; `make fuzz` tries new ones.
settings.register_profile(
    "same", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True, derandomize=True
)
settings.register_profile("new", settings.get_profile("same"), derandomize=False)
settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a module's tests on one worker, which shares what they set up, and all tests that start a Ray on one, first.

    Two Rays at once leave a machine of two cores no time to notice what died.
    """
    for item in items:
        item.add_marker(
            pytest.mark.xdist_group("ray" if item.get_closest_marker("ray") else item.nodeid.split("::")[0])
        )
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
