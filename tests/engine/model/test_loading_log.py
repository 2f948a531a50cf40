"""What takes long is told while it lasts, from another thread; what is quick is not."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator

import pytest

from pipeline.engine.model import loading_log
from pipeline.engine.model.loading_log import LoadingLog

LONG = 600.0
"""Seconds after which a test gives up."""


class Heard(logging.Handler):
    """Keeps what is said, and lets a test wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.news = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self.news:
            self.said.append(record.getMessage())
            self.news.notify_all()

    def wait_for(self, words: str) -> None:
        """Wait until a line with these words is said."""
        with self.news:
            assert self.news.wait_for(lambda: any(words in line for line in self.said), LONG), self.said


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    monkeypatch.setattr(loading_log, "_BETWEEN", 0.001)
    handler = Heard()
    loading_log.logger.addHandler(handler)
    with caplog.at_level(logging.INFO, loading_log.logger.name):
        yield handler
    loading_log.logger.removeHandler(handler)


def test_what_a_slow_disk_holds_up_is_told_while_it_lasts(heard: Heard) -> None:
    with LoadingLog("reading the weights"):
        heard.wait_for("loading: reading the weights, 0 s so far")  # as a read that does not come back


def test_layers_are_counted(heard: Heard) -> None:
    with LoadingLog("packing", 3) as log:
        heard.wait_for("packing, 0 of 3 layers, ")
        log.packed()
        log.packed()
        heard.wait_for("packing, 2 of 3 layers, ")


def test_it_is_silent_afterwards_and_a_failure_goes_on(heard: Heard) -> None:
    log = LoadingLog("reading")
    with pytest.raises(OSError, match="gone"), log:
        heard.wait_for("reading")
        raise OSError("gone")
    assert not log._thread.is_alive()
    assert all(re.fullmatch(r"loading: reading, \d+ s so far", line) for line in heard.said)


def test_a_small_model_is_not_worth_a_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pipeline"), LoadingLog("reading", 3) as log:
        log.packed()
    assert caplog.records == []
