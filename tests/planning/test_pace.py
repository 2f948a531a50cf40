"""How many rows make a part: few where a row is much work, so that a stop loses little; never none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning.pace import Effort

GPT2_LARGE = 774e6
TWO_CORES = 20e9

sizes = st.floats(1, 1e12)


@given(sizes, st.floats(0, 1e6), st.floats(1, 1e6), st.floats(1e8, 1e16))
def test_fault_42_two_shards_are_ten_minutes_at_most_unless_a_row_is_more(
    parameters: float, prompt: float, new: float, speed: float
) -> None:
    effort = Effort(parameters, prompt, new, speed)
    rows = effort.rows_per_shard
    assert 1 <= rows <= 1000
    assert rows == 1 or 2 * rows * effort.row_seconds <= 600 * (1 + 1e-9)
    assert rows == 1000 or rows & (rows - 1) == 0, "a power of two, so that small differences change nothing"
    assert rows == 1000 or 2 * (2 * rows) * effort.row_seconds > 600 * (1 - 1e-9) or 2 * rows > 1000, (
        "no smaller than need be"
    )


@pytest.mark.parametrize(
    ("parameters", "n", "speed", "rows"),
    [(GPT2_LARGE, 5, TWO_CORES, 8), (GPT2_LARGE, 1, TWO_CORES, 32), (124e6, 1, TWO_CORES, 256), (1e6, 1, TWO_CORES, 1000),
     (8e9, 1, 20e12, 1000), (70e9, 8, TWO_CORES, 1)],
)  # fmt: skip
def test_models_that_people_have(parameters: float, n: int, speed: float, rows: int) -> None:
    assert Effort(parameters, 20, n * 64, speed).rows_per_shard == rows


def test_no_work_at_all() -> None:
    assert Effort(0, 0, 0, 1e10).rows_per_shard == 1000
