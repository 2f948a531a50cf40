from __future__ import annotations

import pytest

from benchmarks.phases import (
    ATTENTION,
    LINEAR,
    PHASES,
    RUNNER,
    SEAMS,
    STATISTICS,
    Clock,
    StepTime,
    found,
    summary,
    table,
)


def test_an_inner_phase_stops_the_outer_ones_time() -> None:
    ticks = iter([0.0, 1.0, 3.0, 7.0])  # outer begins, inner begins, inner ends, outer ends
    clock = Clock(lambda: next(ticks))
    inner = clock.timed("inner", lambda: "made")
    assert clock.timed("outer", lambda: inner())() == "made"
    assert clock.seconds == {"outer": 1.0 + 4.0, "inner": 2.0}


def test_an_error_ends_the_phase() -> None:
    ticks = iter([0.0, 1.0, 5.0, 7.0])
    clock = Clock(lambda: next(ticks))

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        clock.timed("first", fail)()
    clock.timed("second", lambda: None)()
    assert clock.seconds == {"first": 1.0, "second": 2.0}


def test_a_phase_may_depend_on_the_arguments() -> None:
    ticks = iter([0.0, 1.0, 1.0, 4.0])
    clock = Clock(lambda: next(ticks))
    function = clock.timed(lambda x: "even" if x % 2 == 0 else "odd", lambda x: x)
    assert [function(2), function(3)] == [2, 3]
    assert clock.seconds == {"even": 1.0, "odd": 3.0}


def test_steps_are_grouped_by_what_they_do() -> None:
    times = [
        StepTime(3, 32, {"linears": 0.2}), StepTime(1, 0, {"linears": 0.1}), StepTime(8, 0, {"linears": 0.3}),
        StepTime(15, 0, {"linears": 0.1, "attention": 0.2}), StepTime(16, 0, {}),
    ]  # fmt: skip
    entries = summary(times)
    assert [entry["kind"] for entry in entries] == ["reads prompts", "decodes 1", "decodes 8 to 15", "decodes 16 to 31"]
    assert entries[2]["steps"] == 2
    assert entries[2]["sequences"] == 11.5
    assert entries[2]["milliseconds"]["linears"] == pytest.approx(200)
    assert entries[2]["milliseconds"]["attention"] == pytest.approx(100)
    widths = {line.count("|") for line in table(entries).splitlines()}
    assert widths == {6 + len(PHASES)}


@pytest.mark.parametrize("seam", [*SEAMS, LINEAR, RUNNER, ATTENTION, STATISTICS])
def test_the_seams_are_there(seam: str) -> None:
    assert found(seam)[2] is not None


@pytest.mark.parametrize("seam", ["pipeline.engine.gone:Name", "pipeline.engine.layers.linear:PackedLinear.gone"])
def test_a_seam_that_is_gone_is_named(seam: str) -> None:
    with pytest.raises(SystemExit, match=f"the seam {seam} is gone"):
        found(seam)
