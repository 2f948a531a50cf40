"""Some thousand worlds in which everything fails: each output complete, each row once, the right bytes.

A seed that fails is replayed by `python -m tests.run.simulation 1 SEED`; `make simulate` runs as many as one likes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.example_counts import examples
from tests.run.simulation import World, make_repeatable

WORLDS = 1_500
PORTIONS = 10


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    make_repeatable(monkeypatch)
    logging.disable()  # what drivers say of each failure, thousands of times
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("portion", range(PORTIONS))
def test_worlds_of_random_faults(portion: int) -> None:
    size = WORLDS // PORTIONS
    for seed in range(portion * size, (portion + 1) * size):
        try:
            World(seed).run(100)
        except Exception as error:
            raise AssertionError(f"the world of seed {seed}") from error


def test_a_seed_is_a_world() -> None:
    def story(seed: int) -> object:
        world = World(seed)
        world.run(100)
        return world.files.history, [driver.state for driver in world.drivers], world.time

    assert story(11) == story(11)
    assert story(11) != story(12)


def test_faults_do_happen() -> None:
    """The worlds would prove little in which nothing goes wrong."""
    states: set[str] = set()
    blamed = taken = lost = 0
    for seed in range(300):
        world = World(seed)
        world.run(100)
        states |= {driver.state for driver in world.drivers}
        blamed += sum(name.startswith("_job/suspects/") for name in world.files.files)
        taken += sum(len(set(owners)) > 1 for name, owners in world.files.history.items() if "claims" in name)
        lost += sum(not replica.alive for replica in world.replicas)
    assert states >= {"complete", "killed", "stopped"}
    assert min(blamed, taken, lost) > 10


class Drivers(RuleBasedStateMachine):
    """The same world, moved by Hypothesis, which looks for a short story that ends badly."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.world = World(seed, faults=0.02)
        self.world.start_driver()

    @rule()
    def start_a_driver(self) -> None:
        if sum(driver.running for driver in self.world.drivers) < 3:
            self.world.start_driver()

    @rule(times=st.integers(1, 10))
    def go_on(self, times: int) -> None:
        for _ in range(times):
            self.world.act()

    @rule(which=st.integers(0, 9), orphans=st.booleans())
    def kill_a_driver(self, which: int, orphans: bool) -> None:
        running = [driver for driver in self.world.drivers if driver.running]
        if running:
            self.world.kill_driver(running[which % len(running)], orphans=orphans)

    @rule()
    def something_bad(self) -> None:
        self.world.misfortune()

    @rule(seconds=st.sampled_from([-86400.0, -100.0, 100.0, 86400.0]))
    def set_the_stores_clock(self, seconds: float) -> None:
        self.world.store_offset += seconds

    @rule(seconds=st.sampled_from([1.0, 31.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.world.time += seconds

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()
            self.world.check()


class TestDrivers(Drivers.TestCase):  # type: ignore[valid-type, misc]
    settings = settings(max_examples=examples(100), stateful_step_count=40, deadline=None)

    def setUp(self) -> None:
        super().setUp()
        patch = pytest.MonkeyPatch()
        self.addCleanup(patch.undo)
        make_repeatable(patch)
