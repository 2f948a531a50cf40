"""The comparison of the kernels' levels: that it runs at this machine's, and marks what is slower."""

from __future__ import annotations

import pytest

from benchmarks import levels
from pipeline.engine import native


@pytest.mark.skipif(native.level() == "none", reason="there are no compiled kernels here")
def test_a_level_is_measured_and_its_table_marks_what_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SHAPES", ((40, 64),)), ("ROWS", (1, 3)), ("ATTENTION", ((2, 1, 40), (1, 50, 0)))):
        monkeypatch.setattr(levels, name, value)
    level = native.level()
    try:
        found = levels.measured(level, 1, 1)
    finally:
        native.use("auto")
    assert [row[:2] for row in found["products"]] == [["40 × 64", 1], ["40 × 64", 3]]
    assert [row[:3] for row in found["attention"]] == [[2, 1, 40], [1, 50, 0]]
    assert all(number > 0 for row in (*found["products"], *found["attention"]) for number in row[3:])
    found["products"] = [["40 × 64", 1, 10.0, 20.0, 5.0, 17.0]]
    assert "| 40 × 64 | 1 | 10 | 20 | **0.50** | 5 | **0.50** | 17 | 1.70 |" in levels.table(level, found)
    assert {*levels.CAPS} == {*native.LEVELS["x86_64"]}
