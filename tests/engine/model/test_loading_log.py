"""A small model is loaded without a word; a large one has a line every few seconds."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from pipeline.engine.model.loading_log import LoadingLog


def lines(caplog: pytest.LogCaptureFixture, seconds: list[float]) -> list[str]:
    """What is said when the layers are packed at these times after the start."""
    times = iter([100.0, *[100 + s for s in seconds]])
    clock: Callable[[], float] = times.__next__
    with caplog.at_level(logging.INFO, "pipeline"):
        log = LoadingLog(len(seconds), clock)
        for _ in seconds:
            log.packed()
    return [record.message for record in caplog.records]


def test_a_small_model_is_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    assert lines(caplog, [0.1 * i for i in range(20)]) == []


def test_a_line_after_two_seconds_and_then_every_five(caplog: pytest.LogCaptureFixture) -> None:
    said = lines(caplog, [0.5 * (i + 1) for i in range(30)])
    assert said == [f"loading: {n} of 30 layers packed" for n in (4, 14, 24)]


def test_a_layer_that_takes_long_is_told_when_it_is_done(caplog: pytest.LogCaptureFixture) -> None:
    assert lines(caplog, [60, 61, 120]) == ["loading: 1 of 3 layers packed", "loading: 3 of 3 layers packed"]
