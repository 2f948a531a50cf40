"""The driver's small parts; whole runs are in tests/end_to_end and tests/faults."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import ConfigurationError, DeadlineReached, InputRefused, Interrupted, ModelRefused
from pipeline.planning.pace import Effort
from pipeline.planning.plan import InputFile, Plan, make_plan
from pipeline.run import driver, signals
from pipeline.run.cluster import capacity as machine
from pipeline.types import Progress
from pipeline.work.config import ClusterConfig, GenerateConfig
from pipeline.work.prepare import prepare
from tests.run.fakes import FakePool, FakeReplica
from tests.small_runs import configured, write

NIGHT = datetime.datetime(2026, 12, 31, 22, 30, 15)


class TestNextTime:
    @pytest.mark.parametrize(
        ("asked", "moment"),
        [
            ("23:00", (2026, 12, 31, 23, 0)),
            ("22:31", (2026, 12, 31, 22, 31)),
            ("22:30", (2027, 1, 1, 22, 30)),
            ("06:00", (2027, 1, 1, 6, 0)),
            ("6:05", (2027, 1, 1, 6, 5)),
        ],
    )
    def test_the_next_such_time(self, asked: str, moment: tuple[int, ...]) -> None:
        assert GenerateConfig(deadline=asked).deadline_after(NIGHT) == datetime.datetime(*moment)  # type: ignore[arg-type]

    def test_none(self) -> None:
        assert GenerateConfig().deadline_after(NIGHT) is None


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_become_an_error_that_tells_its_number(self, number: signal.Signals) -> None:
        before = signal.getsignal(number)
        with pytest.raises(Interrupted, match=number.name) as raised, signals.signals_raise():
            os.kill(os.getpid(), number)
            pytest.fail("not reached")
        assert raised.value.exit_code == 128 + number
        assert signal.getsignal(number) is before

    def test_are_not_taken_for_a_failure_of_what_is_called(self) -> None:
        with pytest.raises(Interrupted), signals.signals_raise():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except Exception:
                pytest.fail("swallowed")

    def test_one_that_is_lost_is_raised_again(self) -> None:
        with pytest.raises(Interrupted, match="SIGINT"), signals.signals_raise() as check:
            check()
            with contextlib.suppress(BaseException):  # as in a destructor
                os.kill(os.getpid(), signal.SIGINT)
            check()
            pytest.fail("not reached")


@pytest.fixture
def config(tmp_path: Path) -> GenerateConfig:
    source = write({"prompt": ["a"] * 9}, tmp_path / "in.parquet")
    return configured(source, tmp_path / "out", output={"rows_per_shard": 2}, cluster=ClusterConfig(name="inline"))


def use(pool: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_pool", lambda config, job, demand, note: pool)


def test_the_deadline_stops_the_run(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config.deadline = "06:00"
    closed: list[bool] = []
    pool = FakePool(1)
    monkeypatch.setattr(pool, "close", lambda: closed.append(True), raising=False)
    use(pool, monkeypatch)
    monkeypatch.setattr(GenerateConfig, "deadline_after", lambda self, now: datetime.datetime(2000, 1, 1, 6, 0))
    with pytest.raises(DeadlineReached) as raised:
        driver.run_job(config, config_yaml="a: b\n")
    assert str(raised.value) == (
        "the deadline 06:00 has passed; 0 of 5 parts are committed, no row in flight is lost; "
        "the same command resumes from there"
    )
    assert raised.value.exit_code == 75
    assert closed == [True]
    out = Path(config.output.path)
    assert (out / "_job" / "config.yaml").read_text() == "a: b\n"
    (log,) = (out / "_job" / "events").iterdir()
    assert '"driver_stop"' in log.read_text() and '"exit_code": 75' in log.read_text()
    assert not (out / "_job" / "manifest.json").exists()


def test_an_unexpected_error_still_stops_the_replicas(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed: list[bool] = []

    class Broken(FakeReplica):
        def submit(self, task: Any) -> Any:
            raise RuntimeError("a bug")

    pool = FakePool(1)
    monkeypatch.setattr(pool, "start", lambda: [Broken("broken")], raising=False)
    monkeypatch.setattr(pool, "close", lambda: closed.append(True), raising=False)
    use(pool, monkeypatch)
    with pytest.raises(RuntimeError, match="a bug"):
        driver.run_job(config, config_yaml="")
    assert closed == [True]
    (log,) = (Path(config.output.path) / "_job" / "events").iterdir()
    assert '"driver_stop"' in log.read_text() and '"RuntimeError"' in log.read_text()


def test_a_driver_is_named_so_that_its_log_can_be_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "a/b")
    assert "/" not in driver._driver_id()
    assert re.fullmatch(rf"\d{{8}}T\d{{6}}Z-a_b-{os.getpid()}-[0-9a-f]{{4}}", driver._driver_id())
    assert len({driver._driver_id() for _ in range(20)}) > 15, "two starts within a second differ"


def test_a_stop_says_which_rows_are_lost(config: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(FakeReplica):
        def submit(self, task: Any) -> Any:
            self.counters = Progress(completions=1, running=2)
            return super().submit(task)

    pool = FakePool(1)
    monkeypatch.setattr(pool, "start", lambda: [Slow("slow")], raising=False)
    use(pool, monkeypatch)
    monkeypatch.setattr(GenerateConfig, "deadline_after", lambda self, now: datetime.datetime(2000, 1, 1, 6, 0))
    with pytest.raises(
        DeadlineReached, match=r"committed, 3 rows in flight are lost \(1 finished, 2 begun\); the same"
    ):
        driver.run_job(config, config_yaml="")


class TestWorkAtRisk:
    EFFORT = Effort(774e6, 20, 5 * 64, 20e9)

    def plan(self, rows: int, rows_per_shard: int) -> Plan:
        return make_plan([InputFile("a", "/a", 1, rows, "f")], {}, rows_per_shard=rows_per_shard)

    def test_a_layout_of_ones_own_that_may_lose_hours(self) -> None:
        assert driver._at_risk(self.EFFORT, self.plan(10_000, 1000)) == (
            "WARNING: output.rows_per_shard=1000: a stop may lose 14:37:12 of work, by a careful estimate; a new output "
            "without this option has parts of 8 rows"
        )

    def test_a_layout_that_follows_from_the_work(self) -> None:
        assert driver._at_risk(self.EFFORT, self.plan(10_000, self.EFFORT.rows_per_shard)) is None

    def test_few_rows_are_little_work(self) -> None:
        assert driver._at_risk(self.EFFORT, self.plan(3, 1000)) is None

    def test_a_row_that_is_too_much_work(self) -> None:
        told = driver._at_risk(Effort(70e9, 20, 8 * 64, 20e9), self.plan(100, 1))
        assert told is not None and told.endswith("; a row alone takes that long")


def test_rows_that_are_much_work_make_small_parts(config: GenerateConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config.output.rows_per_shard = None
    assert prepare(config).job.plan.rows_per_shard == 1000
    monkeypatch.setattr("pipeline.work.prepare.CORE_SPEED", 1e7)
    few = prepare(config)
    assert 1 <= few.job.plan.rows_per_shard < 1000
    monkeypatch.setattr(config.sampling, "n", 50)
    assert prepare(config).job.plan.rows_per_shard < few.job.plan.rows_per_shard
    config.output.rows_per_shard = 7
    assert prepare(config).job.plan.rows_per_shard == 7


def test_an_exception_of_a_library_before_the_start_is_a_refusal(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise KeyError("what fsspec may raise")

    monkeypatch.setattr("pipeline.engine.own.resolve", broken)
    with pytest.raises(ModelRefused, match=r"^model\.path=.*: KeyError: 'what fsspec may raise'$"):
        prepare(config)
    monkeypatch.setattr("pipeline.work.prepare.open_source", broken)
    with pytest.raises(InputRefused, match=r"^source\.path=.*: KeyError"):
        prepare(config)


def test_cores_that_are_not_there_are_refused_at_once(config: GenerateConfig) -> None:
    config.cluster.cpus_per_replica = "100000"
    with pytest.raises(ConfigurationError, match=r"cluster\.cpus_per_replica=100000: this process may use \d+ cores"):
        driver.run_job(config, config_yaml="")
    assert not Path(config.output.path).exists()


@pytest.mark.parametrize(
    ("there", "asked", "build", "told"),
    [
        (0, {}, "2.13.0", "this machine has no GPU"), (0, {"name": "inline"}, "2.13.0", "this machine has no GPU"),
        (1, {}, "2.13.0+cpu", r"torch 2\.13\.0\+cpu is a build without CUDA"), (1, {}, "2.13.0+cu130", None),
        (1, {"gpus_per_replica": 0.5, "replicas": "2"}, "2.13.0", None),
        (1, {"gpus_per_replica": 0.5, "replicas": "3"}, "2.13.0", "1 GPU; must be auto or at most 2"),
        (2, {"replicas": "3"}, "2.13.0", r"cluster\.replicas=3 of .*=1: this machine has 2 GPUs; must be auto or at most 2"),
        (None, {}, "2.13.0", None),
    ],
)  # fmt: skip
def test_gpus_that_are_not_there_are_refused_at_once(
    there: int | None, asked: dict[str, Any], build: str, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_gpus", lambda: there)
    monkeypatch.setattr(machine, "version", lambda package: build)
    cluster = ClusterConfig(**{"name": "local", "gpus_per_replica": 1.0, **asked})
    with contextlib.nullcontext() if told is None else pytest.raises(ConfigurationError, match=told):
        machine.check_machine(cluster)


def test_nothing_is_written_for_a_gpu_that_is_not_there(
    config: GenerateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_gpus", lambda: 0)
    config.cluster.gpus_per_replica = 1.0
    with pytest.raises(ConfigurationError) as refusal:
        driver.run_job(config, config_yaml="")
    assert refusal.value.exit_code == 2 and not Path(config.output.path).exists()


@pytest.mark.ray
def test_ray_counts_the_gpus_of_this_machine() -> None:
    assert machine._gpus() == torch.cuda.device_count()
