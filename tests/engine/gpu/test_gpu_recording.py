"""When a function is recorded, and that it is only replayed from then on: with torch's graphs stood in for."""

from __future__ import annotations

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
        self.pools = 0
        stream = SimpleNamespace(wait_stream=lambda other: None)
        self.stream = stream
        self.parts = {
            "set_stream": lambda s: self.log.append("back" if s is stream else "astray"), "current_device": lambda: 0,
            "graph_pool_handle": self.new_pool, "Stream": lambda: stream, "current_stream": lambda: stream,
            "stream": self.aside, "graph": self.graph,
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: self.log.append("replay")),
        }  # fmt: skip
        self.of_the_allocator = {
            f"_cuda_{name}Pool": lambda device, pool, name=name: self.log.append(f"{name} {pool}")
            for name in ("endAllocateTo", "release")
        }

    def new_pool(self) -> str:
        self.pools += 1
        return f"pool {self.pools}"

    @contextmanager
    def aside(self, stream: object) -> Any:
        self.log.append("aside")
        yield

    @contextmanager
    def graph(self, graph: object, *, pool: object, stream: object, capture_error_mode: str) -> Any:
        self.log.append("record")
        try:
            yield
        finally:
            if self.broken is not None:  # what torch raises at its end, whatever was raised within
                raise self.broken


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Card]:
    def make(broken: Exception | None = None) -> Card:
        made = Card(broken)
        for name, part in made.parts.items():
            monkeypatch.setattr(torch.cuda, name, part)
        for name, part in made.of_the_allocator.items():  # a build without CUDA has none
            monkeypatch.setattr(torch._C, name, part, raising=False)
        return made

    return make


def test_a_function_is_recorded_once_and_replayed(card: Callable[..., Card]) -> None:
    made, recordings, calls = card(), Recordings(torch.device("cuda")), list[str]()

    def function() -> list[str]:
        calls.append("call")
        return ["result"]

    first = recordings.run("it", "key", function)
    assert made.log == ["aside", "record", "replay"] and calls == ["call"] * 2  # made ready, and recorded
    assert recordings.run("it", "key", function) is first
    assert made.log[3:] == ["replay"] and len(calls) == 2
    recordings.run("it", "other", function)
    assert len(calls) == 4


FAILED = RuntimeError("CUDA error: operation failed due to a previous error during capture")


def test_what_cannot_be_recorded_is_called_each_time_and_no_other_shape_of_it_is_tried(
    card: Callable[..., Card], caplog: pytest.LogCaptureFixture
) -> None:
    made = card(FAILED)
    recordings, calls = Recordings(torch.device("cuda")), list[str]()

    def function() -> None:
        calls.append("call")
        if made.log[-1] == "record":
            raise CompileError("this GPU has too few registers")

    class CompileError(Exception):
        """As a compiler's own are no RuntimeErrors."""

    for key in ("key", "key", "key", "another shape"):
        recordings.run("a step", key, function)
    assert len(calls) == 6  # made ready, tried, and four times for their result
    assert made.log == ["aside", "record", "back", "endAllocateTo pool 1", "release pool 1"]
    made.broken = None
    recordings.run("the choice", "other", lambda: None)  # with memory of its own: the first one's is not to be trusted
    assert made.log[5:] == ["aside", "record", "replay"] and recordings._pool == "pool 2"
    assert [r.getMessage() for r in caplog.records] == [
        "a step cannot be recorded and is launched kernel by kernel, which is slower: "
        "CompileError: this GPU has too few registers"
    ]


def test_a_pool_that_torch_has_ended_itself_is_not_released_again(card: Callable[..., Card]) -> None:
    made = card(FAILED)

    def ended(device: int, pool: str) -> None:
        raise RuntimeError("no allocation to this pool")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch._C, "_cuda_endAllocateToPool", ended, raising=False)
        Recordings(torch.device("cuda")).run("a step", "key", lambda: None)
    assert made.log == ["aside", "record", "back"]


@pytest.mark.parametrize("within", [True, False])
def test_memory_that_is_out_is_told_to_the_engine(card: Callable[..., Card], within: bool) -> None:
    made = card(FAILED if within else torch.OutOfMemoryError("CUDA out of memory."))

    def function() -> None:
        if within and made.log[-1] == "record":
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(RuntimeError) as raised:
        Recordings(torch.device("cuda")).run("a step", "key", function)
    assert isinstance(raised.value.__context__ if within else raised.value, torch.OutOfMemoryError)
    assert made.log[-1] == "release pool 1"


def test_recordings_that_are_dropped_are_called_each_time(card: Callable[..., Card]) -> None:
    made, recordings, calls = card(), Recordings(torch.device("cuda")), list[str]()
    recordings.run("a step", "key", lambda: calls.append("call"))
    assert recordings.drop() and not recordings.drop()
    assert not recordings._recorded and recordings._pool is None
    for key in ("key", "other"):
        recordings.run("a step", key, lambda: calls.append("call"))
    assert len(calls) == 4 and made.log == ["aside", "record", "replay"]


def test_elsewhere_it_is_simply_called() -> None:
    recordings, calls = Recordings(torch.device("cpu")), list[str]()
    for _ in range(3):
        recordings.run("it", "key", lambda: calls.append("call"))
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
    assert recordings.run("bad", "bad", lambda: x * x.sum().item()).tolist() == [4] * 4
    assert torch.cuda.current_stream() == stream
    torch.cuda.empty_cache()
    for value in (2, 3):
        x.fill_(value)
        assert recordings.run("good", "good", lambda: x + 1).tolist() == [value + 1] * 4
    assert recordings._recorded["good"][0] is not None
