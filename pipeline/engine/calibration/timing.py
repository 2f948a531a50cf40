"""Times calls that take turns: the median of each, as one call in a long run takes it, or the shortest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq

import torch

Way = Callable[[], Callable[[], object]]
"""Prepares a call, whose time does not count, and returns it."""
_LEAST, _MOST, _LONG = 3, 12, 6.0
"""Fewest and most rounds over all ways, and seconds after which no more is begun."""
_TURN, _TURN_SECONDS = 8, 0.03
"""Most repetitions of a call in a round, and seconds after which there are no more."""


def typical(ways: Seq[Way]) -> list[float]:
    """Return the median seconds of each call."""
    return [statistics.median(times) for times in _times(ways)]


def shortest(ways: Seq[Way]) -> list[float]:
    """Return the fewest seconds of each call: what the machine can do."""
    return [min(times) for times in _times(ways)]


@torch.inference_mode()
def _times(ways: Seq[Way]) -> list[list[float]]:
    """Return the seconds of each call, again and again; they take turns, so that no way has all slow moments."""
    found: list[list[float]] = [[] for _ in ways]
    began = time.perf_counter()
    for number in range(_MOST + 1):
        if number > _LEAST and time.perf_counter() - began > _LONG:
            break
        for way, times in zip(ways, found, strict=True):
            run, turn = way(), time.perf_counter()
            for _ in range(_TURN):
                before = time.perf_counter()
                run()
                if number:  # the first round prepares memory
                    times.append(time.perf_counter() - before)
                if time.perf_counter() - turn > _TURN_SECONDS:
                    break
    return found
