from __future__ import annotations

import itertools
import queue

from pipeline.run.show.stages import Stage, interval, moments


def test_moments_thin_out() -> None:
    assert list(itertools.islice(moments(), 5)) == [1.5, 5.0, 10.0, 15.0, 20.0]
    late = list(itertools.takewhile(lambda moment: moment < 8 * 3600, moments()))
    assert [b - a for a, b in itertools.pairwise(late)][-1] == interval(7 * 3600) == 300
    assert len(late) < 200


def told(waits: int) -> list[str]:
    """What a stage says that ends after so many waits."""
    left, over, lines = iter(range(waits)), queue.SimpleQueue[None](), list[str]()

    def wait(seconds: float) -> bool:
        if next(left, None) is None:
            over.put(None)
            return True
        return False

    with Stage("loading", lines.append, wait):
        over.get(timeout=600)
    return lines


def test_a_short_stage_is_silent() -> None:
    assert told(0) == []


def test_a_long_stage_says_what_and_for_how_long() -> None:
    assert told(3) == ["loading", "loading, 0:05 so far", "loading, 0:10 so far"]
