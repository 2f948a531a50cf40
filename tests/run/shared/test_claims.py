"""Claims between drivers: who may work on a shard, and when a driver counts as dead."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from pipeline.run.shared.claims import STALE, Claims, Pulse, Taken
from pipeline.store.process import me
from tests.run.simulated_store import SharedFiles, View, memory, unavailable


class Times:
    """Two clocks: the store's, and the one of this machine, which only grows."""

    store = 1000.0
    here = 0.0

    def go(self, seconds: float) -> None:
        self.store += seconds
        self.here += seconds


@pytest.fixture
def times() -> Times:
    return Times()


@pytest.fixture
def files(times: Times) -> SharedFiles:
    return SharedFiles(lambda: times.store)


def driver(name: str, files: SharedFiles, times: Times, process: str = "elsewhere-1-1") -> Claims:
    made = Claims(memory(files), name, process=process, clock=lambda: times.here)
    made.beat()
    return made


def test_one_driver_has_a_shard(files: SharedFiles, times: Times) -> None:
    a, b = driver("a", files, times), driver("b", files, times)
    assert a.take(3) is Taken.YES
    assert b.take(3) is Taken.NO
    assert a.take(3) is Taken.YES, "its own"
    assert (a.look(), b.look()) == ({}, {3: "a"})
    a.release(3)
    assert b.look() == {}
    assert b.take(3) is Taken.YES


def test_a_put_whose_reply_was_lost_is_its_own(files: SharedFiles, times: Times) -> None:
    view = View(files, lambda kind, name: None, lambda kind, name: True)
    claims = Claims(view, "a", clock=lambda: times.here)
    claims.beat()
    assert claims.take(0) is Taken.YES
    assert claims.held == {0}


def test_a_silent_driver_is_dead_by_the_stores_clock(files: SharedFiles, times: Times) -> None:
    a, b = driver("a", files, times), driver("b", files, times)
    a.take(0)
    times.go(STALE - 1)
    b.beat()
    assert b.take(0) is Taken.NO
    times.store += 2  # this machine's own clock stands
    b.beat()
    assert b.take(0) is Taken.FROM_THE_DEAD
    assert b.look() == {}


def test_who_begins_later_sees_that_a_driver_is_dead_already(files: SharedFiles, times: Times) -> None:
    driver("a", files, times).take(0)
    times.go(STALE + 1)
    b = driver("b", files, times)
    assert b.look() == {}
    assert b.take(0) is Taken.FROM_THE_DEAD


def test_signs_of_life_keep_a_driver_alive(files: SharedFiles, times: Times) -> None:
    a, b = driver("a", files, times), driver("b", files, times)
    a.take(0)
    for _ in range(20):
        times.go(STALE / 3)
        a.beat()
        b.beat()
        assert b.take(0) is Taken.NO


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_fault_29_a_clock_that_jumps_delays_a_takeover_but_does_not_prevent_it(
    jump: float, files: SharedFiles, times: Times
) -> None:
    a, b = driver("a", files, times), driver("b", files, times)
    a.take(0)
    b.beat()
    b.look()
    times.store += jump
    b.beat()
    early = b.take(0)
    assert early is (Taken.NO if jump < 0 else Taken.FROM_THE_DEAD), "too early costs work, nothing else"
    times.go(STALE + 1)
    b.beat()
    assert b.take(0) in (Taken.YES, Taken.FROM_THE_DEAD)
    assert b.held == {0}


def test_a_process_of_this_machine_that_is_gone_is_dead_at_once(files: SharedFiles, times: Times) -> None:
    code = "from pipeline.store.process import me; print(me())"
    gone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    driver("gone", files, times, gone).take(0)
    driver("here", files, times, me()).take(1)
    b = driver("b", files, times)
    assert b.look() == {1: "here"}
    assert b.take(0) is Taken.FROM_THE_DEAD
    assert b.take(1) is Taken.NO


def test_a_claim_of_a_driver_without_signs_of_life_is_free(files: SharedFiles, times: Times) -> None:
    files.write("_job/claims/00007", b"nobody")
    b = driver("b", files, times)
    assert b.look() == {}
    assert b.take(7) is Taken.FROM_THE_DEAD


def test_stopping_lets_go_of_everything(files: SharedFiles, times: Times) -> None:
    a = driver("a", files, times)
    a.take(0)
    a.take(1)
    a.close()
    assert files.files == {}


def test_with_threads_a_driver_does_not_wait_until_a_shard_is_let_go_of(files: SharedFiles) -> None:
    answers, store = threading.Event(), memory(files)
    claims = Claims(store, "a", threads=2)

    def before(kind: str, name: str) -> None:
        assert kind == "put_if_absent" or answers.wait(900), "no answer"

    store.before = before
    for index in range(5):
        claims.take(index)
        claims.release(index)
    claims.take(5)
    assert len(files.files) == 6 and claims.held == {5}
    answers.set()
    claims.close()
    assert files.files == {}


def test_what_could_not_be_let_go_of_is_let_go_of_at_the_end(files: SharedFiles) -> None:
    store, fails = memory(files), threading.Event()
    claims = Claims(store, "a", threads=1)

    def once(kind: str, name: str) -> None:
        if kind == "delete" and not fails.is_set():
            fails.set()
            raise unavailable(kind, name)

    store.before = once
    claims.take(0)
    claims.release(0)
    assert fails.wait(900)
    claims.take(1)
    claims.release(1)
    claims._pool.submit(int).result()  # type: ignore[union-attr]  # one thread: what was begun before is done
    assert list(files.files) == ["_job/claims/00000"]
    claims.close()
    assert files.files == {}


def test_at_the_end_a_store_that_cannot_be_reached_is_not_asked_for_every_shard(files: SharedFiles) -> None:
    store, asked = memory(files), list[str]()
    claims = Claims(store, "a", threads=2)
    for index in range(100):
        claims.take(index)

    def gone(kind: str, name: str) -> None:
        asked.append(name)
        raise unavailable(kind, name)

    store.before = gone
    claims.close()
    assert len(asked) <= 3, "one a thread, and the driver's own file"


def test_what_was_taken_over_is_not_let_go_of(files: SharedFiles, times: Times) -> None:
    a, b = driver("a", files, times), driver("b", files, times)
    a.take(0)
    times.go(STALE + 1)
    b.beat()
    b.take(0)
    a.close()  # it was only slow
    assert files.files["_job/claims/00000"][0] == b"b"


def test_sweep_leaves_nothing_of_the_dead(files: SharedFiles, times: Times) -> None:
    driver("a", files, times).take(0)
    times.go(STALE + 1)
    b = driver("b", files, times)
    b.sweep()
    assert list(files.files) == ["_job/drivers/b"]


def test_a_claim_is_read_once_however_often_it_is_looked_at(files: SharedFiles, times: Times) -> None:
    a = driver("a", files, times)
    for index in range(5):
        a.take(index)
    asked: list[str] = []
    view = View(files, lambda kind, name: asked.append(name) if kind == "get" else None, lambda kind, name: False)
    b = Claims(view, "b", clock=lambda: times.here)
    b.beat()
    for _ in range(4):
        assert set(b.look()) == set(range(5))
    assert sorted(name for name in asked if "claims" in name) == [f"_job/claims/{i:05d}" for i in range(5)]


@pytest.mark.parametrize("name", ["a/../b", "", "a\nb"])
def test_a_name_that_is_no_files_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="relative name"):
        Claims(memory(), name)


def test_the_pulse_beats_until_it_is_stopped(files: SharedFiles, times: Times) -> None:
    claims = Claims(memory(files), "a", clock=lambda: times.here)
    pulse = Pulse(claims, every=0.001)
    while len(files.history["_job/drivers/a"]) < 3:
        pass
    pulse.stop()
    count = len(files.history["_job/drivers/a"])
    assert not pulse._thread.is_alive()
    assert len(files.history["_job/drivers/a"]) == count
