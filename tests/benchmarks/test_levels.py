"""The comparison of the kernels' levels: that it runs at this machine's, and marks what is slower."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import levels
from benchmarks.parts import level_engines
from benchmarks.parts.level_engines import Load, Pair
from benchmarks.parts.sizes import make_model
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


@pytest.mark.skipif(native.level() == "none", reason="there are no compiled kernels here")
def test_the_engine_is_run_with_and_without_the_compiled_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(level_engines, "PRECISIONS", {"int8": level_engines.PRECISIONS["int8"]})
    load = Load(make_model("tiny", tmp_path), requests=1)
    (found,) = level_engines.measured(native.level(), {}, load, 1)
    assert found.precision == "int8" and found.kernels == ("int8-compiled", "int8-torch")
    assert found.compiled > 0 and found.plain > 0


def test_a_run_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"engine\.kernels=native-v3 in float32: .*config\.json"):
        level_engines.measured("v3", {}, Load(tmp_path), 1)


def test_an_engine_that_is_slower_than_without_is_marked() -> None:
    lines = level_engines.table(
        "v3", Load(Path("models/m")), [Pair("int8", 30.0, 20.0, ("a", "b")), Pair("bfloat16", 3.0, 6.0, ("c", "d"))]
    ).splitlines()
    assert lines[-2:] == ["| int8 | 30.0 | 20.0 | 1.50 | a / b |", "| bfloat16 | 3.0 | 6.0 | **0.50** | c / d |"]
