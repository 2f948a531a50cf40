from __future__ import annotations

import pytest

from pipeline.planning.plan import InputFile, Plan
from pipeline.run.show.monitor import Monitor
from pipeline.types import Progress, Room
from tests.run.fakes import FakeReplica, report

PLAN = Plan("0" * 64, {}, (InputFile("a.parquet", "/a.parquet", 1, 22, "f"),), 22, 4)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_was_there_at_the_start_is_done() -> None:
    monitor = Monitor(PLAN, [0, 5], 2)
    shown = monitor.snapshot([])
    assert (shown.rows_done, shown.rows_total) == (4 + 2, 22), "the last shard is shorter"
    assert (shown.shards_done, shown.shards_total, shown.replicas) == (2, 6, 0)
    assert (shown.tokens, shown.tokens_per_second, shown.rows_before) == (0, None, 6)


def test_reports_and_rows_in_flight_add_up() -> None:
    monitor, replica = Monitor(PLAN, [], 2), FakeReplica("a")
    replica.counters = Progress(completions=7, completion_tokens=70, running=3)
    assert monitor.snapshot([replica]).rows_done == 3, "seven of two samples a row"
    monitor.report(report(PLAN.shard(0), errors={"NULL_PROMPT": 2}))
    shown = monitor.snapshot([replica])
    assert (shown.rows_done, shown.running) == (4, 3), "what is committed is not counted twice"
    assert shown.errors == {"NULL_PROMPT": 2}
    assert monitor.shards_done == 1 and set(monitor.reports) == {0}


def test_more_is_never_done_than_there_is() -> None:
    monitor, replica = Monitor(PLAN, [0, 1, 2, 3, 4], 1), FakeReplica("a")
    replica.counters = Progress(completions=50)
    assert monitor.snapshot([replica]).rows_done == 22


def test_tokens_of_the_dead_count() -> None:
    monitor, one, other = Monitor(PLAN, [], 1), FakeReplica("a"), FakeReplica("b")
    one.counters = Progress(completion_tokens=30, engine_seconds=2.0, running=5)
    other.counters = Progress(completion_tokens=10, engine_seconds=3.0)
    monitor.snapshot([one, other])
    shown = monitor.snapshot([other])
    assert (shown.tokens, shown.replicas, shown.running) == (40, 1, 0)
    assert monitor.timings()["engine_seconds"] == 5.0
    assert monitor.timings()["tokens_per_second"] == 8.0


def test_tokens_count_as_they_are_made() -> None:
    clock, replica = Clock(), FakeReplica("a")
    monitor = Monitor(PLAN, [], 2, clock, max_tokens=50)
    assert monitor.snapshot([replica]).tokens_left == 44 * 50, "at most, as nothing is known yet"
    clock.now += 2
    replica.counters = Progress(running=10, room=Room(open_tokens=200))
    shown = monitor.snapshot([replica])
    assert (shown.rows_done, shown.tokens, shown.tokens_per_second) == (0, 200, 100)
    assert shown.tokens_left == 44 * 50 - 200
    replica.counters = Progress(completions=12, completion_tokens=120, running=10, room=Room(open_tokens=40))
    shown = monitor.snapshot([replica])
    length = 160 / 12
    assert shown.tokens == 160
    assert shown.tokens_left == pytest.approx((44 - 12) * length - 40), "completions are shorter than they may be"


def test_a_report_tells_tokens_before_the_counters_do() -> None:
    monitor = Monitor(PLAN, [], 2)
    done = report(PLAN.shard(0))
    monitor.report(done)
    assert monitor.snapshot([FakeReplica("a")]).tokens == done.completion_tokens > 0
    monitor.report(report(PLAN.shard(1), already_there=True))
    assert monitor.snapshot([FakeReplica("a")]).tokens == done.completion_tokens, "another driver made those"


def test_what_others_committed_is_reckoned_in_tokens() -> None:
    monitor, replica = Monitor(PLAN, [0], 2, max_tokens=50), FakeReplica("a")
    monitor.elsewhere(1)
    monitor.report(report(PLAN.shard(2)))
    replica.counters = Progress(completions=8, completion_tokens=80)
    shown = monitor.snapshot([replica])
    assert shown.tokens_elsewhere == 4 * 2 * 10, "not what was there at the start, nor what was made here"
    assert shown.tokens_left == (22 - 12) * 2 * 10


def test_without_a_limit_nothing_is_known_before_a_completion_ends() -> None:
    assert Monitor(PLAN, [], 1).snapshot([FakeReplica("a")]).tokens_left is None


def test_the_rate_is_of_the_last_seconds() -> None:
    clock, replica = Clock(), FakeReplica("a")
    monitor = Monitor(PLAN, [], 1, clock)
    rates = []
    for second in range(31):
        replica.counters = Progress(completion_tokens=100 * second if second <= 10 else 1000)
        rates.append(monitor.snapshot([replica]).tokens_per_second)
        clock.now += 1
    assert rates[0] is None
    assert rates[5] == rates[10] == pytest.approx(100)
    assert rates[15] == pytest.approx(50)
    assert rates[-1] is None, "nothing has come for a while"
    assert monitor.timings()["wall_seconds"] == 31


def test_no_engine_no_rate() -> None:
    clock = Clock()
    assert Monitor(PLAN, [], 1, clock).timings() == {"wall_seconds": 0, "engine_seconds": 0, "tokens_per_second": 0}


@pytest.mark.parametrize(
    ("completions", "running", "in_hand", "told"),
    [
        (0, 0, 8, "no row in flight is lost"),
        (2, 0, 8, "1 row in flight is lost (1 finished, 0 begun)"),
        (5, 3, 8, "4 rows in flight are lost (2 finished, 2 begun)"),
        (50, 9, 8, "8 rows in flight are lost (8 finished, 0 begun)"),
    ],
)
def test_what_a_stop_loses(completions: int, running: int, in_hand: int, told: str) -> None:
    monitor, replica = Monitor(PLAN, [], 2), FakeReplica("a")
    replica.counters = Progress(completions=completions, running=running)
    monitor.snapshot([replica])
    assert monitor.lost(in_hand, [replica]) == told
