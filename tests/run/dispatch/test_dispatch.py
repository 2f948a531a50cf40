from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ClusterLost, CorruptInput, DeadlineReached, WorkerFailed
from pipeline.run.dispatch import dispatch
from pipeline.run.dispatch.replica import ReplicaDied, ReplicaFailed, ReplicaLost
from pipeline.types import ErrorCode, Progress
from tests.example_counts import examples
from tests.run.fakes import FakePool, FakeReplica, Story


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "TICK", 0.0)


def complete_all(pool: FakePool) -> None:
    for replica in pool.alive:
        while replica.in_hand:
            replica.complete()


def nothing(pool: FakePool) -> None:
    """Let a look pass: what was settled is taken, and replicas get their next tasks after it."""


class Script:
    """One step a tick; when there is none left, everything in flight is completed."""

    def __init__(self, *steps: object) -> None:
        self._steps = list(steps)

    def __call__(self, pool: FakePool) -> None:
        step = self._steps.pop(0) if self._steps else complete_all
        step(pool)  # type: ignore[operator]


def test_every_shard_is_reported_once() -> None:
    story = Story(FakePool(3), complete_all)
    story.run(20)
    assert sorted(story.reports) == list(range(20))
    assert len(story.named("shard_started")) == 20
    assert [e["replica"] for e in story.named("replica_up")] == ["replica-0", "replica-1", "replica-2"]


def test_nothing_to_do_ends_at_once() -> None:
    story = Story(FakePool(1), complete_all)
    story.run(0)
    assert (story.reports, story.ticks) == ([], 0)


def test_two_in_flight_each_and_the_first_of_everyone_before_the_second_of_anyone() -> None:
    seen: list[list[list[int]]] = []

    def look(pool: FakePool) -> None:
        seen.append([r.holds for r in pool.alive])

    def one_ends(pool: FakePool) -> None:
        look(pool)
        pool.alive[1].complete()

    Story(FakePool(3), Script(one_ends, nothing, look)).run(9)
    assert seen[0] == [[0, 3], [1, 4], [2, 5]]
    assert seen[1] == [[0, 3], [4, 6], [2, 5]]


def test_the_last_shards_are_spread() -> None:
    seen: list[list[list[int]]] = []

    def look(pool: FakePool) -> None:
        seen.append([r.holds for r in pool.alive])
        complete_all(pool)

    Story(FakePool(3), look).run(4)
    assert seen[0] == [[0, 3], [1], [2]]


def test_shards_are_claimed_as_they_are_needed() -> None:
    story = Story(FakePool(1), complete_all)

    def stop(pool: FakePool) -> None:
        raise DeadlineReached("enough")

    story.tell = stop
    with pytest.raises(DeadlineReached):
        story.run(1000)
    assert [name for name in story.files.files if "claims" in name] == ["_job/claims/00000", "_job/claims/00001"]


def test_a_dead_replicas_shards_are_done_again_and_each_alone() -> None:
    seen: list[list[list[int]]] = []

    def look(pool: FakePool) -> None:
        seen.append([r.holds for r in pool.alive])

    def kill(pool: FakePool) -> None:
        pool.alive[0].die("out of memory")

    def one(pool: FakePool) -> None:
        pool.alive[0].complete()

    def looked(pool: FakePool) -> None:
        look(pool)
        complete_all(pool)

    story = Story(
        FakePool(2, patience=30), Script(kill, nothing, look, one, nothing, look, one, nothing, looked, nothing, looked)
    )
    story.run(8)
    assert seen[0] == [[1, 3]], "the survivor has as many tasks as it takes"
    assert seen[1] == [[3]], "and gets nothing new, so that it runs empty"
    assert seen[2] == [[0]], "then it has a suspect, and nothing else that could have been the reason"
    assert seen[3] == [[2]]
    assert sorted(story.reports) == list(range(8))
    (death,) = story.named("replica_down")
    assert death == {"replica": "replica-0", "reason": "out of memory", "shards": [0, 2], "counts": True}
    assert {e["shard"]: e["attempt"] for e in story.named("shard_started") if e["attempt"] > 1} == {0: 2, 2: 2}
    assert story.pool.buried == ["replica-0"]


def test_the_end_of_a_node_is_held_against_nobody() -> None:
    seen: list[list[list[int]]] = []

    def look(pool: FakePool) -> None:
        seen.append([r.holds for r in pool.alive])
        complete_all(pool)

    story = Story(FakePool(1), Script(lambda pool: pool.alive[0].die("node died", ReplicaLost), nothing, look))
    story.run(4)
    assert seen[0] == [[0, 1]], "both again, together"
    assert story.named("replica_down")[0]["counts"] is False
    assert not any("suspects" in name for name in story.files.history)
    assert sorted(story.reports) == list(range(4))


def test_a_replica_that_gets_nothing_done_is_ended() -> None:
    story = Story(FakePool(1), lambda pool: None, hang_timeout=60.0)

    def tell(pool: FakePool) -> None:
        story.time += 25
        if story.named("replica_down"):
            complete_all(pool)

    story.tell = tell
    story.run(2)
    (down,) = story.named("replica_down")
    assert (down["reason"], down["shards"]) == ("no progress for 60 s", [0, 1])
    assert sorted(story.reports) == [0, 1]


def test_a_replica_that_beats_is_not_ended_however_long_it_takes() -> None:
    story = Story(FakePool(1), lambda pool: None, hang_timeout=60.0)

    def tell(pool: FakePool) -> None:
        story.time += 50
        for replica in pool.alive:
            replica.counters = Progress(beats=int(story.time))
        if story.time > 1000:
            complete_all(pool)

    story.tell = tell
    story.run(2)
    assert story.named("replica_down") == []
    assert len(story.named("shard_slow")) == 1, "that a stop would lose much is told once"


def test_a_replica_that_dies_twice_is_buried_once() -> None:
    """Both of its futures are settled in one look; the second has nothing left to say."""
    story = Story(FakePool(1), Script(lambda pool: pool.alive[0].die()))
    story.run(2)
    assert story.pool.buried == ["replica-0"]
    assert sorted(story.reports) == [0, 1]


def test_a_report_beside_a_death_counts_once() -> None:
    def one_done_one_lost(pool: FakePool) -> None:
        pool.alive[0].complete()
        pool.alive[0].die()

    story = Story(FakePool(1), Script(one_done_one_lost))
    story.run(2)
    assert sorted(story.reports) == [0, 1]
    assert story.named("replica_down")[0]["shards"] == [1], "what was reported is not done again"


@pytest.mark.parametrize("deadly", [{(3, 0)}, {(3, 3)}, {(0, 1), (3, 2)}, {(5, 0), (5, 1)}])
def test_deadly_rows_are_found_and_excluded(deadly: set[tuple[int, int]]) -> None:
    made: dict[int, dict[int, ErrorCode]] = {}

    def live_or_die(pool: FakePool) -> None:
        for replica in list(pool.alive):
            for place in reversed(range(len(replica.in_hand))):
                task = replica.in_hand[place][0]
                start, stop = task.trial or (0, task.shard.rows)
                rows = {(task.shard.index, row) for row in range(start, stop) if row not in task.excluded}
                if rows & deadly:
                    replica.die("killed by signal 11")
                    break
                if task.trial is None:
                    made[task.shard.index] = dict(task.excluded)
                replica.complete(place)

    story = Story(FakePool(2), live_or_die)
    story.run(6)
    assert {(shard, row) for shard, rows in made.items() for row in rows} == deadly
    assert {(e["shard"], e["row"]) for e in story.named("row_blamed")} == deadly
    assert sorted(story.reports) == list(range(6))


def test_deaths_with_different_shards_do_not_add_up() -> None:
    def die(pool: FakePool) -> None:
        for replica in list(pool.alive):
            replica.die()

    calm = (nothing, nothing, complete_all, nothing)
    story = Story(FakePool(1), Script(*(step for _ in range(4) for step in (die, *calm))))
    story.run(10)
    assert sorted(story.reports) == list(range(10))
    assert len(story.pool.buried) == 4


def test_an_error_of_a_worker_ends_the_run() -> None:
    story = Story(FakePool(2), Script(lambda pool: pool.alive[1].fail(CorruptInput("a.parquet: page 7"))))
    with pytest.raises(CorruptInput, match="page 7"):
        story.run(8)
    assert story.pool.buried == []


def test_nobody_left_and_nobody_coming() -> None:
    story = Story(FakePool(2, barren=True), Script(lambda pool: [r.die() for r in list(pool.alive)]))
    with pytest.raises(ClusterLost, match="no replica is left"):
        story.run(8)


def test_waits_for_a_successor_without_spinning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "TICK", 0.02)
    nobody: list[float] = []

    def look(pool: FakePool) -> None:
        if not pool.alive:
            nobody.append(time.monotonic())

    story = Story(FakePool(1, patience=4), Script(lambda pool: pool.alive[0].die(), *[look] * 6))
    story.run(3)
    assert sorted(story.reports) == [0, 1, 2]
    assert len(nobody) == 4
    assert all(after - before >= 0.02 for before, after in pairwise(nobody)), "one tick between two looks"


def test_those_that_arrive_late_join() -> None:
    pool = FakePool(1)
    pool.starting = [FakeReplica("late")]
    seen: list[list[list[int]]] = []

    def look(pool: FakePool) -> None:
        seen.append([r.holds for r in pool.alive])
        complete_all(pool)

    story = Story(pool, look)
    story.run(6)
    assert [r["replica"] for r in story.named("replica_up")] == ["replica-0", "late"]
    assert any(len(held) == 2 and held[1] for held in seen)
    assert sorted(story.reports) == list(range(6))


def test_what_a_tick_raises_ends_the_run() -> None:
    def deadline(pool: FakePool) -> None:
        raise DeadlineReached("06:00")

    with pytest.raises(DeadlineReached):
        Story(FakePool(1), deadline).run(3)


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["complete", "complete", "complete", "die", "wait"]), st.integers(0, 7)), max_size=60
)


@settings(max_examples=examples(150), deadline=None)
@given(count=st.integers(0, 25), replicas=st.integers(1, 4), patience=st.integers(0, 3), actions=ACTIONS)
def test_any_order_of_ends_and_deaths_reports_each_shard_once(
    count: int, replicas: int, patience: int, actions: list[tuple[str, int]]
) -> None:
    queue = list(actions)

    def act(pool: FakePool) -> None:
        busy = [r for r in pool.alive if r.in_hand]
        assert all(len(r.in_hand) <= dispatch.IN_FLIGHT for r in pool.alive)
        holds = [index for r in pool.alive for index in r.holds]
        assert len(holds) == len(set(holds)), "no two replicas hold one shard"
        assert not set(holds) & set(story.reports), "nor one that is done"
        if not queue:
            complete_all(pool)
        elif busy:
            what, which = queue.pop(0)
            replica = busy[which % len(busy)]
            if what == "complete":
                replica.complete(which % len(replica.in_hand))
            elif what == "die":
                replica.die(kind=ReplicaLost if which % 2 else ReplicaDied)
                pool.patience = patience

    story = Story(FakePool(replicas), act)
    try:
        story.run(count)
    except WorkerFailed:
        assert story.named("bisected")
        assert len(story.reports) == len(set(story.reports))
    else:
        assert sorted(story.reports) == list(range(count))


def test_an_exception_in_one_of_two_replicas_costs_that_replica() -> None:
    def one_fails(pool: FakePool) -> None:
        pool.alive[0].die("the engine raises TypeError: no", ReplicaFailed)

    story = Story(FakePool(2), Script(one_fails))
    story.run(8)
    assert sorted(story.reports) == list(range(8))
    (death,) = story.named("replica_down")
    assert (death["replica"], death["counts"], death["reason"]) == (
        "replica-0",
        True,
        "the engine raises TypeError: no",
    )


def test_a_shard_that_ends_three_replicas_in_an_exception_ends_the_job_with_it() -> None:
    def all_fail(pool: FakePool) -> None:
        for replica in pool.alive:
            replica.die("shard 0: writing it failed: TypeError: no", ReplicaFailed)

    story = Story(FakePool(1), all_fail)
    with pytest.raises(WorkerFailed, match=r"^shard 0: writing it failed: TypeError: no; 3 replicas have ended so$"):
        story.run(4)
    assert len(story.named("replica_down")) == 3


def slow_start(story: Story) -> Script:
    """Two replicas with two shards each, of which one is through with its own after a second, and the other is not."""

    def quick(pool: FakePool) -> None:
        story.time += 1
        pool.alive[0].complete()
        pool.alive[0].complete()

    def late(pool: FakePool) -> None:
        story.time += 1.5  # more than twice as long

    return Script(quick, late)


def test_the_last_shards_of_a_slow_replica_are_done_by_another_too() -> None:
    story = Story(FakePool(2), lambda pool: None)
    start = slow_start(story)
    seen: list[list[list[int]]] = []

    def tell(pool: FakePool) -> None:
        if story.ticks <= 2:
            start(pool)
            return
        story.time += 1
        seen.append([r.holds for r in pool.alive])
        if pool.alive[0].in_hand:
            pool.alive[0].complete()

    story.tell = tell
    dispatcher = story.run(4)
    assert [[1], [1, 3]] in seen, "both have it in flight"
    assert sorted(story.reports) == [0, 1, 2, 3], "each is reported once"
    assert [(e["shard"], e["replica"], e["of"]) for e in story.named("shard_copied")] == [
        (1, "replica-0", "replica-1"), (3, "replica-0", "replica-1")
    ]  # fmt: skip
    assert [t.attempt for t, _ in dispatcher.replicas[1].in_hand] == [1, 1], "the slow one is not waited for"  # type: ignore[attr-defined]


def test_what_comes_late_of_a_shard_that_another_has_done_is_passed_over() -> None:
    story = Story(FakePool(2), lambda pool: None)
    start = slow_start(story)

    def tell(pool: FakePool) -> None:
        if story.ticks <= 2:
            start(pool)
            return
        quick, slow = pool.alive
        if 1 in quick.holds and 1 in slow.holds:
            quick.complete(quick.holds.index(1))
        elif 1 in slow.holds:
            slow.fail(CorruptInput("too late to matter"))
        elif slow.in_hand:
            slow.complete()  # shard 3, of which the copy is the late one now

    story.tell = tell
    story.run(4)
    assert sorted(story.reports) == [0, 1, 2, 3]


@pytest.mark.parametrize("first", [0, 1])
def test_the_death_of_one_of_two_that_have_a_shard_is_held_against_nothing(first: int) -> None:
    story = Story(FakePool(2, barren=True), lambda pool: None)
    start = slow_start(story)

    def tell(pool: FakePool) -> None:
        if story.ticks <= 2:
            start(pool)
        elif story.ticks == 3:
            pool.alive[first].die("killed")
        else:
            complete_all(pool)

    story.tell = tell
    story.run(4)
    assert sorted(story.reports) == [0, 1, 2, 3]
    assert not [name for name in story.files.files if "suspects" in name]


def test_a_replica_that_will_be_taken_away_gets_nothing_more_and_another_does_what_it_has() -> None:
    story = Story(FakePool(2), lambda pool: None)
    seen: list[list[list[int]]] = []

    def tell(pool: FakePool) -> None:
        seen.append([r.holds for r in pool.alive])
        if story.ticks == 1:
            pool.left = {"replica-1"}
        elif story.ticks < 9:
            while pool.alive[0].in_hand:
                pool.alive[0].complete()
        else:
            complete_all(pool)

    story.tell = tell
    story.run(8)
    assert seen[0] == [[0, 2], [1, 3]]
    assert [1, 3] in [holds[0] for holds in seen], "before anything new"
    assert sorted(story.reports) == list(range(8))
    assert [e["replica"] for e in story.named("replica_leaving")] == ["replica-1"]
    (down,) = story.named("replica_down")
    assert (down["counts"], down["shards"]) == (False, [])
    assert story.pool.buried == ["replica-1"], "as soon as nothing of it is wanted"


def test_the_only_replica_finishes_what_it_has_before_it_goes() -> None:
    story = Story(FakePool(1), lambda pool: None)

    def tell(pool: FakePool) -> None:
        if story.ticks == 1:
            pool.left = {"replica-0"}
        elif story.ticks > 3:
            complete_all(pool)

    story.tell = tell
    story.run(4)
    assert sorted(story.reports) == [0, 1, 2, 3]
    assert [e["replica"] for e in story.named("replica_up")] == ["replica-0", "replica-1"]


def test_a_death_on_a_node_that_leaves_is_held_against_nothing() -> None:
    """Its processes may be ended before Ray takes the node for dead."""
    story = Story(FakePool(1), lambda pool: None)

    def tell(pool: FakePool) -> None:
        if story.ticks == 1:
            pool.left = {"replica-0"}
        elif story.ticks == 3:
            pool.alive[0].die("connection error")
        elif story.ticks > 3:
            complete_all(pool)

    story.tell = tell
    story.run(4)
    assert sorted(story.reports) == [0, 1, 2, 3]
    (down,) = story.named("replica_down")
    assert (down["counts"], down["shards"]) == (False, [0, 1])
