"""The search for rows that kill: all that kill are found, none that does not, and in few trials."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import WorkerFailed
from pipeline.run.shared.suspects import DEATHS, GUILTY, SUSPECTS, UNEXPLAINED, Suspect, Suspects
from pipeline.types import ErrorCode, Segment, Shard
from tests.example_counts import examples
from tests.run.simulated_store import SharedFiles, memory

CRASH, HANG = ErrorCode.WORKER_CRASH, ErrorCode.TIMEOUT


def search(suspect: Suspect, deadly: dict[int, ErrorCode]) -> tuple[int, dict[int, ErrorCode]]:
    """Try what the suspect asks for until the whole shard passes; return the number of trials, and who is guilty."""
    for trials in range(1, 10_000):
        whole = suspect.trial is None
        start, stop = suspect.trial or (0, suspect.rows)
        codes = [deadly[row] for row in range(start, stop) if row in deadly and row not in suspect.guilty]
        if codes:
            suspect.died(codes[0])
        else:
            suspect.passed()
            if whole:
                return trials, suspect.guilty
        suspect = Suspect.from_json(suspect.shard, suspect.to_json()) if trials % 3 == 0 else suspect
    raise AssertionError("no end")


@settings(max_examples=examples(200), deadline=None)
@given(
    rows=st.integers(1, 60),
    places=st.dictionaries(st.integers(0, 59), st.sampled_from([CRASH, HANG]), max_size=GUILTY),
)
def test_exactly_the_deadly_rows_are_blamed(rows: int, places: dict[int, ErrorCode]) -> None:
    deadly = {row: code for row, code in places.items() if row < rows}
    assert search(Suspect(0, rows), deadly)[1] == deadly


@pytest.mark.parametrize("rows", [1, 2, 1000, 4096])
def test_one_deadly_row_costs_two_trials_a_halving(rows: int) -> None:
    trials, _ = search(Suspect(0, rows), {rows * 2 // 3: CRASH})
    assert trials <= DEATHS + 1 + 2 * math.ceil(math.log2(rows) if rows > 1 else 0) + DEATHS + 2


def test_one_death_only_sets_a_shard_apart() -> None:
    suspect = Suspect(0, 10)
    suspect.died(CRASH)
    assert suspect.alone and suspect.trial is None
    suspect.passed()
    assert not suspect.alone


def test_drivers_that_end_count_less() -> None:
    suspect = Suspect(0, 10)
    for _ in range(UNEXPLAINED - 1):
        suspect.driver_ended()
    assert suspect.trial is None and suspect.alone
    suspect.driver_ended()
    assert suspect.deaths == 1, "so often that it is taken for a death"


def test_a_shard_that_kills_as_a_whole_only_ends_the_job() -> None:
    suspect = Suspect(7, 4)
    with pytest.raises(WorkerFailed, match="shard 7: replicas keep dying with all of its rows in flight"):
        for _ in range(100):
            if suspect.trial is None:
                suspect.died(CRASH)
            else:
                suspect.passed()


def test_reading_that_kills_is_no_rows_fault() -> None:
    suspect = Suspect(7, 4)
    with pytest.raises(WorkerFailed, match="shard 7: replicas die while they read it"):
        for _ in range(100):
            suspect.died(CRASH)
    assert suspect.guilty == {}


def test_too_many_deadly_rows_end_the_job() -> None:
    with pytest.raises(WorkerFailed, match=f"more than {GUILTY} of its rows"):
        search(Suspect(7, 40), dict.fromkeys(range(GUILTY + 1), CRASH))


SHARD = Shard(3, 9, (Segment(0, 30, 40),))


def test_what_is_known_outlives_the_driver() -> None:
    files = SharedFiles(lambda: 0.0)
    suspects = Suspects(memory(files))
    suspect = suspects.get(SHARD)
    suspect.died(CRASH)
    suspect.died(HANG)
    suspects.keep(suspect)
    again = Suspects(memory(files))
    again.load()
    assert again.get(SHARD) == suspect
    again.clear(3)
    assert files.files == {}


def test_guilt_stays_known() -> None:
    files = SharedFiles(lambda: 0.0)
    suspects = Suspects(memory(files))
    suspect = suspects.get(SHARD)
    suspect.guilty[4] = HANG
    suspects.keep(suspect)
    suspects.clear(3)
    again = Suspects(memory(files))
    again.load()
    assert again.get(SHARD).guilty == {4: HANG}


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"rows": 3}', b"\xff", b'{"rows": 10, "deaths": "x"}'])
def test_what_cannot_be_read_is_ignored(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    files = SharedFiles(lambda: 0.0)
    files.write(f"{SUSPECTS}00003", content)
    suspects = Suspects(memory(files))
    suspects.load()
    assert suspects.get(SHARD) == Suspect(3, 10)
    assert "is ignored" in caplog.text
