from __future__ import annotations

import itertools
import queue
import threading

import pytest

from pipeline.stages import Opening, Stage, doing, interval, moments, now_doing


def test_moments_thin_out() -> None:
    assert list(itertools.islice(moments(), 5)) == [1.5, 5.0, 10.0, 15.0, 20.0]
    late = list(itertools.takewhile(lambda moment: moment < 8 * 3600, moments()))
    assert [b - a for a, b in itertools.pairwise(late)][-1] == interval(7 * 3600) == 300
    assert len(late) < 200


def told(waits: int, detail: str = "") -> list[str]:
    """What a stage says that ends after so many waits."""
    left, over, lines = iter(range(waits)), queue.SimpleQueue[None](), list[str]()

    def wait(seconds: float) -> bool:
        if next(left, None) is None:
            over.put(None)
            return True
        return False

    with Stage("loading", lines.append, lambda: detail, wait):
        over.get(timeout=600)
    return lines


def test_a_short_stage_is_silent() -> None:
    assert told(0) == []


def test_a_long_stage_says_what_and_for_how_long() -> None:
    assert told(3) == ["loading", "loading, 0:05 so far", "loading, 0:10 so far"]


def test_a_long_stage_says_how_far_it_is() -> None:
    assert told(2, "3 of 12 layers") == ["loading: 3 of 12 layers", "loading: 3 of 12 layers, 0:05 so far"]


def test_what_is_done_is_known_to_other_threads_while_it_is_done() -> None:
    told, done = list[str](), 0
    assert now_doing() == ""
    with doing("reading"):
        with doing("packing", lambda: f"{done} of 3 layers"):
            done = 2
            other = threading.Thread(target=lambda: told.append(now_doing()))
            other.start()
            other.join()
        told.append(now_doing())
    assert told == ["packing, 2 of 3 layers", "reading"] and now_doing() == ""


def test_nothing_is_said_of_what_failed() -> None:
    with pytest.raises(OSError, match="gone"), doing("reading"):
        raise OSError("gone")
    assert now_doing() == ""


def test_a_run_says_what_it_is_after_a_moment() -> None:
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    with Opening("generate: a → b", said.put, moment=0.0) as opening:
        assert said.get(timeout=600) == "generate: a → b"
        opening.accepted()
    assert said.empty(), "once"


def test_a_run_that_is_accepted_says_it_at_once_and_one_that_is_refused_does_not() -> None:
    said: list[str] = []
    with Opening("one", said.append, moment=600.0) as opening:
        opening.accepted()
        assert said == ["one"]
    with pytest.raises(ValueError, match="refused"), Opening("two", said.append, moment=600.0):
        raise ValueError("refused")
    assert said == ["one"]
