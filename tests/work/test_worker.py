"""A worker by itself: shards in, committed parts out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.output.columns
import pipeline.output.table
from pipeline.engine.config import EngineConfig
from pipeline.errors import DeviceFault, ModelRefused, PlanRefused, PromptmillError, WorkerFailed
from pipeline.types import ErrorCode, Request, Segment, ShardReport, Task
from pipeline.work.job import Job
from pipeline.work.opened import open_job
from pipeline.work.prepare import prepare
from pipeline.work.sampling import SamplingConfig
from pipeline.work.worker import Worker
from tests.small_runs import configured, write

PROMPTS = ["The train to", None, "Lost", "", "A simple recipe for", "Dear Anna,", "Once there was", None, ""]


def job(folder: Path, path: str = "", **output: Any) -> Job:
    source = folder / "in.parquet"
    if not source.exists():
        write({"prompt": PROMPTS}, source)
    config = configured(
        source, path or folder / "out", output={"rows_per_shard": 2, **output},
        engine=EngineConfig(max_num_seqs="4"), sampling=SamplingConfig(n=2, max_tokens=4),
    )  # fmt: skip
    return prepare(config).job


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(job(tmp_path), threads=1)
    yield made
    made.close()


def done(worker: Worker, task: Task) -> ShardReport:
    report = worker.submit(task).result(timeout=900)
    assert report is not None
    return report


def test_many_shards_at_once(worker: Worker, tmp_path: Path) -> None:
    plan = job(tmp_path).plan
    futures = [worker.submit(Task(plan.shard(i))) for i in range(plan.shard_count)]
    assert not wait(futures, timeout=900).not_done
    reports = [report for future in futures if (report := future.result()) is not None]
    assert [r.rows for r in reports] == [2, 2, 2, 2, 1]
    assert [r.completions for r in reports] == [4, 4, 4, 4, 2]
    assert [dict(r.errors) for r in reports] == [
        {"NULL_PROMPT": 2}, {"EMPTY_PROMPT": 2}, {}, {"NULL_PROMPT": 2}, {"EMPTY_PROMPT": 2},
    ]  # fmt: skip
    assert not any(r.already_there for r in reports)
    rows = [pq.read_table(tmp_path / "out" / r.file).column("prompt").to_pylist() for r in reports]
    assert [prompt for part in rows for prompt in part] == [p for p in PROMPTS for _ in range(2)]
    counted = worker.progress()
    assert (counted.completions, counted.running, counted.waiting) == (10, 0, 0), "errors never reach the engine"
    assert counted.completion_tokens == sum(r.completion_tokens for r in reports)
    assert counted.engine_seconds > 0


def test_fault_26_a_late_commit_finds_the_part_there(worker: Worker, tmp_path: Path) -> None:
    shard = job(tmp_path).plan.shard(2)
    first, again = done(worker, Task(shard)), done(worker, Task(shard, attempt=2))
    assert (first.already_there, again.already_there) == (False, True)
    assert again.sha256 == first.sha256
    assert pq.read_schema(tmp_path / "out" / first.file).metadata[b"promptmill.attempt"] == b"1"


def test_a_foreign_file_in_its_place_is_not_touched(worker: Worker, tmp_path: Path) -> None:
    plan = job(tmp_path).plan
    name = tmp_path / "out" / "data" / f"{plan.plan8}-00000-of-00005.parquet"
    name.parent.mkdir(parents=True)
    name.write_bytes(b"mine")
    with pytest.raises(PlanRefused, match="is not a part"):
        worker.submit(Task(plan.shard(0))).result(timeout=900)
    assert name.read_bytes() == b"mine"
    assert done(worker, Task(plan.shard(1))).rows == 2, "it works on"


def test_an_input_that_is_gone_fails_its_shard_only(worker: Worker, tmp_path: Path) -> None:
    plan = job(tmp_path).plan
    assert done(worker, Task(plan.shard(0))).rows == 2
    content = (tmp_path / "in.parquet").read_bytes()
    (tmp_path / "in.parquet").write_bytes(content[:10] + bytes(len(content) - 20) + content[-10:])
    failed = Worker(job_of(worker), threads=1)
    with pytest.raises(PromptmillError, match=r"in\.parquet"):
        failed.submit(Task(plan.shard(2))).result(timeout=900)
    failed.close()


def job_of(worker: Worker) -> Job:
    return worker._job


def test_an_error_of_the_engine_reaches_every_shard_in_hand_and_to_come(worker: Worker, tmp_path: Path) -> None:
    plan = job(tmp_path).plan

    def broken() -> Any:
        raise RuntimeError("the engine is broken")

    worker._engine.step = broken  # type: ignore[method-assign]
    futures = [worker.submit(Task(plan.shard(i))) for i in range(4)]
    for future in futures:
        with pytest.raises(WorkerFailed, match="RuntimeError: the engine is broken"):
            future.result(timeout=900)
    with pytest.raises(WorkerFailed, match="RuntimeError: the engine is broken"):
        worker.submit(Task(plan.shard(4))).result(timeout=900)


def breaking(made: Worker, when: Callable[[Request], bool], error: Exception) -> None:
    """Have every engine of a worker raise `error` as soon as it has a request with which `when` holds."""
    guard = made._engine
    renew = guard._renew

    def broken(engine: Any) -> Any:
        add, step = engine.add, engine.step
        poisoned: list[Request] = []

        def added(requests: Any) -> None:
            poisoned.extend(request for request in requests if when(request))
            add(requests)

        def stepped() -> Any:
            if poisoned:
                raise error
            return step()

        engine.add, engine.step = added, stepped
        return engine

    guard._renew = lambda: broken(renew())
    broken(guard._engine)


def test_fault_39_an_exception_that_a_row_causes_is_its_own(worker: Worker, tmp_path: Path) -> None:
    plan = job(tmp_path).plan
    whole = Worker(job(tmp_path, path=str(tmp_path / "whole")), threads=1)
    expected = [whole.submit(Task(plan.shard(i))).result(timeout=900) for i in range(plan.shard_count)]
    whole.close()
    breaking(worker, lambda request: request.row_id.endswith((":2", ":5")), IndexError("index out of range in self"))
    futures = [worker.submit(Task(plan.shard(i))) for i in range(plan.shard_count)]
    for index, (future, before) in enumerate(zip(futures, expected, strict=True)):
        report = future.result(timeout=900)
        assert report is not None and before is not None
        made, wanted = (pq.read_table(tmp_path / f / before.file) for f in ("out", "whole"))
        bad = [row["row_id"].endswith((":2", ":5")) for row in made.to_pylist()]
        good = [not b for b in bad]
        keep = [name for name in made.column_names if name != "finish_reason"]
        assert made.filter(good).select(keep).equals(wanted.filter(good).select(keep))
        rows = made.filter(bad).to_pylist()
        assert {row["error_code"] for row in rows} <= {"WORKER_CRASH"}
        assert all("IndexError: index out of range in self" in row["error_message"] for row in rows)
        assert len(rows) == (2 if index in (1, 2) else 0)


def test_fault_39_the_only_row_there_is(worker: Worker, tmp_path: Path) -> None:
    breaking(worker, lambda request: request.row_id.endswith(":2"), RuntimeError("no"))
    shard = replace(job(tmp_path).plan.shard(1), segments=(Segment(0, 2, 3),))
    report = worker.submit(Task(shard)).result(timeout=900)
    assert report is not None and report.errors == {"WORKER_CRASH": 2}


def test_fault_39_a_row_that_cannot_be_written(worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its samples are errors; the other row of the shard is as ever."""
    make = pipeline.output.columns.strings

    def strings(values: Any) -> Any:
        if "A simple recipe for" in values:
            raise pa.ArrowNotImplementedError("Unhandled value")
        return make(values)

    monkeypatch.setitem(pipeline.output.table._BUILDERS, "prompt", lambda slots: strings([s.row.prompt for s in slots]))
    report = worker.submit(Task(job(tmp_path).plan.shard(2))).result(timeout=900)
    assert report is not None and report.errors == {"WORKER_CRASH": 2} and report.rows == 2
    rows = pq.read_table(tmp_path / "out" / report.file).to_pylist()
    assert [row["error_code"] for row in rows] == ["WORKER_CRASH", "WORKER_CRASH", None, None]
    assert rows[1]["error_message"] == "writing this row raised ArrowNotImplementedError: Unhandled value"


def test_fault_41_a_device_fault_is_held_against_no_row(worker: Worker, tmp_path: Path) -> None:
    breaking(worker, lambda request: True, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(DeviceFault, match="illegal memory access"):
        worker.submit(Task(job(tmp_path).plan.shard(1))).result(timeout=900)


def test_the_model_is_loaded_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where: list[str] = []

    def opened(*given: Any) -> Any:
        where.append(threading.current_thread().name)
        return open_job(*given)

    monkeypatch.setattr("pipeline.work.worker.open_job", opened)
    made = Worker(job(tmp_path), threads=1)
    made.close()
    assert where == [made._thread.name]


def test_a_model_that_cannot_be_loaded_is_told_where_the_worker_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: Any) -> Any:
        raise ModelRefused("no such thing")

    monkeypatch.setattr("pipeline.work.worker.open_job", opened)
    with pytest.raises(ModelRefused, match="no such thing"):
        Worker(job(tmp_path), threads=1)


def test_closing_with_work_in_hand(tmp_path: Path) -> None:
    made = Worker(job(tmp_path), threads=1)
    made.submit(Task(job(tmp_path).plan.shard(0)))
    made.close()
    assert not made._thread.is_alive()
    made.close()


def test_the_facts(worker: Worker) -> None:
    assert worker.facts["threads"] == 1
    assert worker.facts["max_num_seqs"] == 4
    assert worker.facts["device"] == "cpu"


def test_a_job_travels(tmp_path: Path) -> None:
    import pickle

    made = job(tmp_path)
    assert pickle.loads(pickle.dumps(made)) == made


def test_a_trial_writes_nothing(worker: Worker, tmp_path: Path) -> None:
    shard = job(tmp_path).plan.shard(2)
    assert worker.submit(Task(shard, trial=(0, 1))).result(timeout=900) is None
    assert worker.submit(Task(shard, trial=(0, 0))).result(timeout=900) is None
    assert worker.progress().completions == 2, "the samples of one row"
    assert not (tmp_path / "out" / "data").exists()


def test_excluded_rows_are_errors_and_the_others_as_ever(worker: Worker, tmp_path: Path) -> None:
    shard = job(tmp_path).plan.shard(2)
    whole = Worker(job(tmp_path, path=str(tmp_path / "whole")), threads=1)
    expected = pq.read_table(tmp_path / "whole" / whole.submit(Task(shard)).result(timeout=900).file)  # type: ignore[union-attr]
    whole.close()
    report = worker.submit(Task(shard, excluded={1: ErrorCode.WORKER_CRASH})).result(timeout=900)
    assert report is not None and report.errors == {"WORKER_CRASH": 2}
    table = pq.read_table(tmp_path / "out" / report.file)
    assert table.slice(0, 2).equals(expected.slice(0, 2))
    assert table.column("error_code").to_pylist() == [None, None, "WORKER_CRASH", "WORKER_CRASH"]
    assert table.column("row_id").to_pylist() == expected.column("row_id").to_pylist()
    assert table.column("prompt").to_pylist()[2:] == [None, None]


def test_beats_tell_that_it_gets_on(worker: Worker, tmp_path: Path) -> None:
    before = worker.progress().beats
    worker.submit(Task(job(tmp_path).plan.shard(2))).result(timeout=900)
    assert worker.progress().beats >= before + 4, "a shard read, steps, a part written"
