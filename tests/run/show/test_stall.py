from __future__ import annotations

from pipeline.run.show.stall import Stall


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def told(moments: range, progress: dict[int, int] | None = None) -> dict[int, str]:
    """What is said at each second, when progress is made at those of `progress`."""
    clock, said, state = Clock(), dict[int, str](), 0
    stall = Stall(clock)
    for second in moments:
        clock.now = float(second)
        state = (progress or {}).get(second, state)
        line = stall.look(state, lambda: "part 3 on replica-0")
        if line is not None:
            said[second] = line
    return said


def test_a_run_that_stands_still_says_what_it_waits_for_ever_more_rarely() -> None:
    said = told(range(0, 3000, 10))
    assert list(said) == [30, 60, 120, 300, 900, 1500, 2100, 2700]
    assert said[30] == "no progress for 0:30: waiting for part 3 on replica-0"
    assert said[900] == "no progress for 15:00: waiting for part 3 on replica-0"


def test_progress_begins_the_wait_anew() -> None:
    assert list(told(range(0, 200, 10), {20: 1, 100: 2})) == [50, 80, 130, 160]


def test_moments_that_the_display_missed_are_one_line() -> None:
    assert list(told(range(0, 1000, 200))) == [200, 400]


def test_a_run_that_goes_on_says_nothing() -> None:
    assert told(range(0, 3000, 10), {second: second for second in range(0, 3000, 20)}) == {}
