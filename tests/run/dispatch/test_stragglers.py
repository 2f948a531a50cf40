from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.run.dispatch.stragglers import InFlight, Pace
from pipeline.types import Segment, Shard, Task
from tests.run.fakes import FakeReplica


def held(replica: str, since: float, rows: int = 10, shard: int = 0) -> InFlight:
    return InFlight(Task(Shard(shard, 100, (Segment(0, 0, rows),))), FakeReplica(replica), False, since)


def paces(**seconds_a_row: float) -> Pace:
    pace = Pace()
    for name, seconds in seconds_a_row.items():
        pace.finished(held(name, 0.0), 10 * seconds)
    return pace


def test_nothing_is_known_at_first() -> None:
    assert Pace().slowest([held("a", 0.0)], "b", 1e6) is None


def test_a_replica_that_is_as_quick_is_let_finish() -> None:
    assert paces(a=1, b=1).slowest([held("a", 100.0)], "b", 101.0) is None
    assert paces(a=1, b=1).slowest([], "b", 101.0) is None


def test_a_slow_replica_is_helped() -> None:
    task = held("slow", 100.0)
    assert paces(slow=5, quick=1).slowest([task], "quick", 101.0) is task
    assert paces(slow=5, quick=1).slowest([task], "quick", 145.0) is None, "it is nearly through"
    assert paces(slow=5, quick=1).slowest([held("quick", 100.0)], "slow", 101.0) is None


def test_what_is_overdue_by_as_much_again_is_done_twice() -> None:
    task = held("a", 100.0)
    assert paces(a=1, b=1).slowest([task], "b", 119.0) is None
    assert paces(a=1, b=1).slowest([task], "b", 121.0) is task
    assert paces(b=1).slowest([held("unknown", 100.0)], "b", 121.0) is not None


def test_of_several_the_one_that_saves_the_most_time() -> None:
    tasks = [held("a", 0.0, shard=0), held("slow", 0.0, shard=1), held("slow", 0.0, rows=20, shard=2)]
    found = paces(a=1, slow=5, b=1).slowest(tasks, "b", 0.0)
    assert found is not None and found.shard == 2


def test_one_that_is_gone_is_forgotten() -> None:
    pace = paces(a=1)
    pace.gone("a")
    pace.gone("never was")
    assert pace.slowest([held("b", 0.0)], "c", 1e6) is None


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.integers(1, 1000), st.floats(0, 1))
def test_no_copy_ends_later_than_what_it_copies(mine: float, its: float, rows: int, elapsed: float) -> None:
    """As long as replicas keep their pace, and the task is not overdue."""
    now = elapsed * rows * its
    if paces(slow=its, idle=mine).slowest([held("slow", 0.0, rows)], "idle", now) is not None:
        assert now + rows * mine <= rows * its * 1.0001
