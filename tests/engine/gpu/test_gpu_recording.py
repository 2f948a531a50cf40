"""When a function is recorded, and that it is only replayed from then on: with torch's graphs stood in for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.engine.steps.recording import Recordings, fetch
from tests.engine.gpu.device import DEVICE


class Card:
    """Stands in for torch.cuda: a graph keeps what was called within it, and calls it again when it is replayed."""

    def __init__(self, broken: Exception | None = None) -> None:
        self.broken, self.log = broken, list[str]()
        stream = SimpleNamespace(wait_stream=lambda other: None)
        self.stream = stream
        self.parts = {
            "set_stream": lambda s: self.log.append("back" if s is stream else "astray"), "current_device": lambda: 0,
            "graph_pool_handle": object, "Stream": lambda: stream, "current_stream": lambda: stream,
            "stream": self.aside, "graph": self.graph,
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: self.log.append("replay")),
        }  # fmt: skip

    @contextmanager
    def aside(self, stream: object) -> Any:
        self.log.append("aside")
        yield

    @contextmanager
    def graph(self, graph: object, *, pool: object, stream: object, capture_error_mode: str) -> Any:
        self.log.append("record")
        yield
        if self.broken is not None:
            raise self.broken


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Card]:
    def make(broken: Exception | None = None) -> Card:
        made = Card(broken)
        for name, part in made.parts.items():
            monkeypatch.setattr(torch.cuda, name, part)
        return made

    return make


def test_a_function_is_recorded_once_and_replayed(card: Callable[..., Card]) -> None:
    made, recordings, calls = card(), Recordings(torch.device("cuda")), list[str]()

    def function() -> list[str]:
        calls.append("call")
        return ["result"]

    first = recordings.run("key", function)
    assert made.log == ["aside", "record", "replay"] and calls == ["call"] * 2  # made ready, and recorded
    assert recordings.run("key", function) is first
    assert made.log[3:] == ["replay"] and len(calls) == 2
    recordings.run("other", function)
    assert len(calls) == 4


def test_what_cannot_be_recorded_is_called_each_time_and_said_once(
    card: Callable[..., Card], caplog: pytest.LogCaptureFixture
) -> None:
    made = card(RuntimeError("operation not permitted when stream is capturing\nmore"))
    recordings, calls = Recordings(torch.device("cuda")), list[str]()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            recordings.run("key", lambda: calls.append("call"))
    assert len(calls) == 5  # made ready, tried, and three times for their result
    assert made.log == ["aside", "record", "back"]
    made.broken = None
    pool = recordings._pool
    recordings.run("other", lambda: None)  # with memory of its own: the first one's is not to be trusted
    assert made.log[3:] == ["aside", "record", "replay"] and recordings._pool is pool
    assert [r.getMessage() for r in caplog.records] == [
        "key cannot be recorded and is launched kernel by kernel, which is slower: "
        "operation not permitted when stream is capturing"
    ]


def test_memory_that_is_out_is_told_to_the_engine(card: Callable[..., Card]) -> None:
    card(torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(torch.OutOfMemoryError):
        Recordings(torch.device("cuda")).run("key", lambda: None)


def test_elsewhere_it_is_simply_called() -> None:
    recordings, calls = Recordings(torch.device("cpu")), list[str]()
    for _ in range(3):
        recordings.run("key", lambda: calls.append("call"))
    assert len(calls) == 3


def test_what_was_fetched_stays_when_the_device_goes_on() -> None:
    tensor = torch.arange(5, device=DEVICE)
    wait = fetch({"a": tensor, "b": tensor[:2].float()})
    tensor += 1
    found = wait()
    assert found["a"].tolist() == [0, 1, 2, 3, 4] and found["b"].tolist() == [0.0, 1.0]
    assert all(t.device.type == "cpu" for t in found.values())


@pytest.mark.skipif(DEVICE == "cpu", reason="torch's own graphs need a GPU")
def test_a_recording_that_failed_leaves_nothing_behind() -> None:
    recordings, x = Recordings(torch.device("cuda")), torch.ones(4, device="cuda")
    stream = torch.cuda.current_stream()
    assert recordings.run("bad", lambda: x * x.sum().item()).tolist() == [4] * 4
    assert torch.cuda.current_stream() == stream
    torch.cuda.empty_cache()
    for value in (2, 3):
        x.fill_(value)
        assert recordings.run("good", lambda: x + 1).tolist() == [value + 1] * 4
    assert recordings._recorded["good"][0] is not None
