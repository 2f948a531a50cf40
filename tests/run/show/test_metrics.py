from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from pipeline.planning.plan import InputFile, Plan
from pipeline.run.dispatch.replica import ReplicaDied, ReplicaLost
from pipeline.run.show.metrics import METRICS, Metric, Metrics
from pipeline.run.show.monitor import Monitor
from pipeline.types import Progress, Room
from tests.run.fakes import FakePool, FakeReplica, Story, report

PLAN = Plan("0" * 64, {}, (InputFile("a.parquet", "/a.parquet", 1, 24, "f"),), 24, 4)
NOON = datetime.datetime(2030, 1, 1, 12, 0, 0)


@dataclass
class FakeMeter:
    """Adds up counters, and keeps the gauges of the last time only: as Ray does, which forgets those that are not set."""

    up: bool = True
    counters: dict[tuple[str, ...], float] = field(default_factory=dict)
    gauges: dict[tuple[str, ...], float] = field(default_factory=dict)

    def ready(self) -> bool:
        return self.up

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        assert metric.counts and value > 0
        key = self._key(metric, tags)
        self.counters[key] = self.counters.get(key, 0) + value

    def set(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        assert not metric.counts
        self.gauges[self._key(metric, tags)] = value

    @staticmethod
    def _key(metric: Metric, tags: Mapping[str, str]) -> tuple[str, ...]:
        assert METRICS[metric.name] is metric
        assert tuple(tags) == ("plan", "driver", *metric.tags)
        assert (tags["plan"], tags["driver"]) == ("0" * 8, "me")
        return metric.name.removeprefix("promptmill_"), *(tags[name] for name in metric.tags)


@dataclass
class Run:
    """A driver's metrics, and what they are made from."""

    deadline: datetime.datetime | None = None
    meter: FakeMeter = field(default_factory=FakeMeter)
    monitor: Monitor = field(init=False)
    metrics: Metrics = field(init=False)
    starting: int = 0
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.monitor = Monitor(PLAN, [], 2, lambda: self.now)
        self.metrics = Metrics(
            self.meter, plan=PLAN.plan8, driver="me", deadline=self.deadline, starting=lambda: self.starting,
            clock=lambda: self.now,
        )  # fmt: skip

    def publish(self, *replicas: FakeReplica) -> dict[tuple[str, ...], float]:
        self.meter.gauges.clear()
        self.metrics.publish(self.monitor.snapshot(replicas), self.monitor.latest, [r.name for r in replicas])
        return {**self.meter.counters, **self.meter.gauges}

    def commit(self, shard: int, errors: dict[str, int] | None = None, *, already_there: bool = False) -> None:
        made = report(PLAN.shard(shard), errors=errors, already_there=already_there)
        self.monitor.report(made)
        self.metrics.report(made)


def busy(**counters: Any) -> Progress:
    return replace(
        Progress(
            completions=6, completion_tokens=600, prompt_tokens=60, engine_seconds=1.5, running=3, waiting=2, beats=50,
            steps=48, room=Room(4, 10, 64),
        ),
        **counters,
    )  # fmt: skip


def test_everything_is_published_as_it_is() -> None:
    run, replica = Run(), FakeReplica("a", counters=busy())
    run.starting = 1
    seen = run.publish(replica)
    assert seen == {
        ("driver_starts_total",): 1,
        ("prompt_tokens_total",): 60,
        ("completion_tokens_total",): 600,
        ("completions_total",): 6,
        ("engine_seconds_total",): 1.5,
        ("engine_steps_total",): 48,
        ("rows_planned",): 24,
        ("rows_done",): 3,
        ("shards_planned",): 6,
        ("shards_committed",): 0,
        ("replicas", "ready"): 1,
        ("replicas", "starting"): 1,
        ("running_sequences", "a"): 3,
        ("waiting_sequences", "a"): 2,
        ("max_running_sequences", "a"): 4,
        ("kv_blocks_used", "a"): 10,
        ("kv_blocks", "a"): 64,
        ("last_progress_timestamp_seconds",): 1000,
        ("last_seen_timestamp_seconds",): 1000,
    }


def test_every_metric_is_published_at_some_time() -> None:
    run = Run(deadline=NOON)
    replica = FakeReplica("a", counters=busy())
    run.publish(replica)
    run.now += 10
    run.commit(0, {"NULL_PROMPT": 1})
    run.metrics.event("replica_down", {"counts": True, "reason": "killed"})
    replica.counters = busy(completions=9, completion_tokens=900)
    seen = run.publish(replica)
    run.metrics.stop("finished")
    names = {f"promptmill_{name}" for name, *_ in [*seen, *run.meter.counters]}
    assert names == set(METRICS)


def test_counters_only_grow_while_replicas_die_and_come() -> None:
    run, one, other = Run(), FakeReplica("a", counters=busy()), FakeReplica("b", counters=busy(steps=100))
    counted = []
    for replicas in ([one], [one, other], [other], [], [FakeReplica("c", counters=Progress())]):
        counted.append(run.publish(*replicas)["engine_steps_total",])
    third = FakeReplica("c", counters=busy(steps=7))
    counted.append(run.publish(third)["engine_steps_total",])
    assert counted == [48, 148, 148, 148, 148, 155], "the dead one's steps stay, and the new one's are added"


def test_a_dead_replicas_gauges_are_not_set_again() -> None:
    run, one, other = Run(), FakeReplica("a", counters=busy()), FakeReplica("b", counters=busy())
    assert ("running_sequences", "a") in run.publish(one, other)
    seen = run.publish(other)
    assert [key for key in seen if "a" in key[1:]] == []
    assert seen["replicas", "ready"] == 1


def test_what_was_already_there_counts_for_whoever_committed_it() -> None:
    run = Run()
    run.commit(0, {"NULL_PROMPT": 2, "TIMEOUT": 1})
    run.commit(1, {"NULL_PROMPT": 1})
    run.commit(2, {"NULL_PROMPT": 1}, already_there=True)
    seen = run.publish()
    assert seen["output_rows_total",] == 2 * (4 + 4)
    assert (seen["row_errors_total", "NULL_PROMPT"], seen["row_errors_total", "TIMEOUT"]) == (3, 1)
    assert seen["shards_committed",] == 3


def test_tokens_that_no_replica_told_of_are_known_by_their_part() -> None:
    run, replica = Run(), FakeReplica("a", counters=busy(completion_tokens=15, prompt_tokens=4))
    assert run.publish(replica)["completion_tokens_total",] == 15
    run.commit(0)
    seen = run.publish(replica)
    assert (seen["completion_tokens_total",], seen["prompt_tokens_total",]) == (20, 10)
    replica.counters = busy(completion_tokens=19)
    assert run.publish(replica)["completion_tokens_total",] == 20
    replica.counters = busy(completion_tokens=31)
    assert run.publish(replica)["completion_tokens_total",] == 31


def test_what_happens_before_ray_is_there_is_published_then() -> None:
    run = Run(meter=FakeMeter(up=False))
    run.commit(0, {"NULL_PROMPT": 1})
    assert run.publish() == {}
    run.metrics.stop("ClusterLost")
    assert run.meter.counters == {}, "there is nobody to tell"
    run.meter.up = True
    assert run.publish()["row_errors_total", "NULL_PROMPT"] == 1


def test_the_deadline_is_absent_without_one() -> None:
    assert not any(key[0] == "deadline_timestamp_seconds" for key in Run().publish())
    seen = Run(deadline=NOON).publish()
    assert datetime.datetime.fromtimestamp(seen["deadline_timestamp_seconds",]) == NOON


def test_the_time_left_is_absent_until_it_can_be_known() -> None:
    run, replica = Run(), FakeReplica("a", counters=Progress(running=4))
    assert ("remaining_seconds",) not in run.publish(replica)
    run.now += 10
    replica.counters = Progress(completions=16, completion_tokens=160, running=4)
    assert run.publish(replica)["remaining_seconds",] == pytest.approx(20), "8 rows of 24 in 10 seconds"


def test_progress_is_what_a_replica_gets_done_and_not_the_drivers_look() -> None:
    run, replica = Run(), FakeReplica("a", counters=busy())
    run.publish(replica)
    run.now += 60
    seen = run.publish(replica)
    assert (seen["last_progress_timestamp_seconds",], seen["last_seen_timestamp_seconds",]) == (1000, 1060)
    replica.counters = busy(beats=51)
    assert run.publish(replica)["last_progress_timestamp_seconds",] == 1060


def test_an_engine_without_blocks_has_no_cache_to_show() -> None:
    run, replica = Run(), FakeReplica("a", counters=busy(room=Room(8)))
    seen = run.publish(replica)
    assert seen["max_running_sequences", "a"] == 8
    assert not any(key[0].startswith("kv_") for key in seen)
    replica.counters = Progress()
    assert ("max_running_sequences", "a") not in run.publish(replica), "its model has just been loaded"


@pytest.mark.parametrize(("death", "kind"), [(ReplicaDied, "crashed"), (ReplicaLost, "lost")])
def test_a_death_is_counted_by_its_kind(death: type[ReplicaDied], kind: str) -> None:
    def tell(pool: FakePool) -> None:
        (replica,) = pool.alive
        if replica.in_hand and pool.made == 1:
            replica.die(kind=death)
        elif replica.in_hand:
            replica.complete()

    assert deaths(Story(FakePool(1), tell)) == {("replica_deaths_total", kind): 1}


def test_one_that_hangs_is_counted_as_that() -> None:
    def tell(pool: FakePool) -> None:
        story.time += 1
        replica = next(iter(pool.alive), None)
        if replica is not None and pool.made > 1 and replica.in_hand:
            replica.complete()

    story = Story(FakePool(1), tell, hang_timeout=5)
    assert deaths(story) == {("replica_deaths_total", "hung"): 1}


def deaths(story: Story) -> dict[tuple[str, ...], float]:
    """What the metrics make of the events of a dispatch with one shard."""
    story.run(1)
    run = Run()
    for name, facts in story.events:
        run.metrics.event(name, facts)
    run.publish()
    return {key: value for key, value in run.meter.counters.items() if key[0] == "replica_deaths_total"}


def test_the_end_is_told_with_its_reason() -> None:
    run = Run()
    run.publish()
    run.metrics.stop("DeadlineReached")
    assert run.meter.counters["driver_stops_total", "DeadlineReached"] == 1
