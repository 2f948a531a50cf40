"""What jobs take beside their steps is shared out as it came about, and no share is negative."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.calibration.beside import shares
from pipeline.engine.calibration.timing import shortest, typical

COUNTS = [(20.0, 400.0, 128.0), (30.0, 1500.0, 128.0), (25.0, 96.0, 4.0)]


@given(st.tuples(*[st.floats(0, 1e-2)] * 3))
def test_what_explains_all_jobs_is_found(each: tuple[float, float, float]) -> None:
    rest = [float(np.dot(counts, each)) for counts in COUNTS]
    assert shares(COUNTS, rest, [1.0, 2.0, 0.5]) == pytest.approx(each, abs=1e-9)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3))
def test_no_share_is_negative(rest: list[float]) -> None:
    found = shares(COUNTS, rest, [1.0, 1.0, 1.0])
    assert len(found) == 3 and min(found) >= 0


def test_steps_that_were_quicker_than_alone_take_nothing_more() -> None:
    assert shares(COUNTS, [-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]) == (0.0, 0.0, 0.0)


def test_the_median_is_not_the_shortest(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**6))
    waits = iter([1, 5, 3] * 100)

    def clock() -> float:
        return float(next(ticks))

    def call() -> None:
        for _ in range(next(waits)):
            next(ticks)

    monkeypatch.setattr("pipeline.engine.calibration.timing.time.perf_counter", clock)
    assert typical([lambda: call]) == [4.0]
    assert shortest([lambda: call]) == [2.0]
