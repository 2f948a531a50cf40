"""Exceptions out of an engine: found out by halves, blamed only where others come through, raised where none does."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.device import lost
from pipeline.engine.guarded import GuardedEngine
from pipeline.errors import DeviceFault, ModelRefused, WorkerFailed
from pipeline.types import Completion, ErrorCode, Request, Room, SamplingParams
from tests.example_counts import examples

PROBE = Request("", 0, (0,), SamplingParams())


class Fragile:
    """Serves a few requests a step; raises when it begins with one whose prompt is in `bad`, whatever else it has."""

    def __init__(self, bad: set[int], error: BaseException, most: int = 3) -> None:
        self.bad, self.error, self.most = bad, error, most
        self.waiting: list[Request] = []
        self.broken = False

    def add(self, requests: Sequence[Request]) -> None:
        self.waiting.extend(requests)

    def load(self) -> tuple[int, int]:
        return min(self.most, len(self.waiting)), max(0, len(self.waiting) - self.most)

    @property
    def room(self) -> Room:
        return Room(self.most)

    def step(self) -> list[Completion]:
        assert not self.broken, "an engine that has failed is not used again"
        batch = self.waiting[: self.most]
        if any(request.prompt_token_ids[0] in self.bad for request in batch):
            self.broken = True
            raise self.error
        del self.waiting[: self.most]
        return [Completion(request, text=str(request.prompt_token_ids)) for request in batch]


def guarded(bad: set[int], error: BaseException | None = None) -> GuardedEngine:
    error = error or IndexError("out of range")
    return GuardedEngine(Fragile(bad, error), lambda: Fragile(bad, error), PROBE)


def requests(rows: Sequence[int], n: int = 1) -> list[Request]:
    return [Request(f"row-{row}", sample, (row,), SamplingParams(n=n)) for row in rows for sample in range(n)]


def run(engine: GuardedEngine, shards: Sequence[Sequence[Request]]) -> list[Completion]:
    done: list[Completion] = []
    for shard in shards:
        engine.add(shard)
        done += engine.step()
    for _ in range(10_000):
        if not any(engine.load()):
            return done
        done += engine.step()
    raise AssertionError("it does not come to an end")


@settings(max_examples=examples(200), deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 99), unique=True, max_size=12), max_size=4),
    st.sets(st.integers(1, 99)),
    st.integers(1, 3),
)
def test_exactly_the_bad_ones_are_errors(shards: list[list[int]], bad: set[int], n: int) -> None:
    shards = [[100 * place + row for row in rows] for place, rows in enumerate(shards)]
    rows = [row for shard in shards for row in shard]
    bad = {row for row in rows if row % 100 in bad}
    if len(bad) * n >= 16:
        bad = set(sorted(bad)[: 15 // n])
    done = run(guarded(bad), [requests(shard, n) for shard in shards])
    assert sorted((c.request.prompt_token_ids[0], c.request.sample_index) for c in done) == sorted(
        (row, sample) for row in rows for sample in range(n)
    )
    assert {c.request.prompt_token_ids[0] for c in done if c.error is not None} == bad
    assert all(c.error.code is ErrorCode.WORKER_CRASH for c in done if c.error is not None)
    assert all("IndexError: out of range" in c.error.message for c in done if c.error is not None)


def test_many_bad_rows_among_good_ones() -> None:
    bad = set(range(1, 60, 2))
    done = run(guarded(bad), [requests(range(60))])
    assert {c.request.prompt_token_ids[0] for c in done if c.error is not None} == bad


def test_a_shard_of_bad_rows_alone_when_others_have_come_through() -> None:
    engine = guarded(set(range(10, 60)))
    done = run(engine, [requests(range(1, 10))]) + run(engine, [requests(range(10, 60))])
    assert sum(c.error is not None for c in done) == 50


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_an_engine_that_fails_with_everything_is_no_rows_fault(rows: int) -> None:
    with pytest.raises(WorkerFailed, match="IndexError: out of range, whatever it is given"):
        run(guarded(set(range(100))), [requests(range(1, rows + 1))])


def test_a_refusal_that_holds_for_everything_keeps_its_exit_code() -> None:
    with pytest.raises(ModelRefused, match="no"):
        run(guarded(set(range(100)), ModelRefused("no")), [requests(range(5))])


def test_many_rows_and_none_that_comes_through() -> None:
    with pytest.raises(WorkerFailed, match="for each of 16 rows"):
        run(guarded(set(range(1, 100))), [requests(range(1, 100))])


def test_a_device_fault_is_raised_at_once() -> None:
    with pytest.raises(DeviceFault, match="no longer works"):
        run(guarded({3}, RuntimeError("CUDA error: device-side assert triggered")), [requests(range(5))])


@pytest.mark.parametrize("text", ["CUDA error: invalid configuration argument", "out of range"])
def test_where_the_device_can_be_asked_its_answer_decides(text: str) -> None:
    answer: list[str | None] = [None]

    def asked() -> GuardedEngine:
        error = RuntimeError(text)
        return GuardedEngine(Fragile({3}, error), lambda: Fragile({3}, error), PROBE, lambda: answer[0])

    done = run(asked(), [requests(range(5))])
    assert [c.request.row_id for c in done if c.error is not None] == ["row-3"], "it works: the row is at fault"
    answer[0] = "AcceleratorError: CUDA error: an illegal memory access was encountered"
    with pytest.raises(DeviceFault, match=text):
        run(asked(), [requests(range(5))])


def test_a_device_is_asked_by_waiting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert lost(torch.device("cuda")) is None
    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    assert lost(torch.device("cpu")) is None
    told = lost(torch.device("cuda"))
    assert told is not None and "illegal memory access" in told and "\n" not in told


def test_a_signal_is_no_ones_fault() -> None:
    with pytest.raises(KeyboardInterrupt):
        run(guarded({3}, KeyboardInterrupt()), [requests(range(5))])
