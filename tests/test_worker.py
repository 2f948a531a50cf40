"""A worker by itself: shards in, committed parts out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.engine.config import EngineConfig, ModelConfig
from pipeline.errors import PlanRefused, PromptmillError
from pipeline.output.config import OutputConfig
from pipeline.prompts.config import SourceConfig
from pipeline.run.config import GenerateConfig
from pipeline.run.prepare import prepare
from pipeline.types import ErrorCode, SamplingParams, Task
from pipeline.worker import Job, Worker

MODEL = Path(__file__).parents[1] / "examples" / "demo-model"
PROMPTS = ["The train to", None, "Lost", "", "A simple recipe for", "Dear Anna,", "Once there was", None, ""]


def job(folder: Path, path: str = "", **output: Any) -> Job:
    source = folder / "in.parquet"
    if not source.exists():
        pq.write_table(pa.table({"prompt": pa.array(PROMPTS, pa.string())}), source)
    config = GenerateConfig(
        model=ModelConfig(path=str(MODEL)),
        engine=EngineConfig(max_num_seqs=4),
        sampling=SamplingParams(n=2, max_tokens=4),
        source=SourceConfig(path=str(source)),
        output=OutputConfig(path=path or str(folder / "out"), rows_per_shard=2, **output),
    )
    prepared = prepare(config)
    return prepared.job(config, prepared.plan)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(job(tmp_path), threads=1)
    yield made
    made.close()


def test_many_shards_at_once(worker: Worker, tmp_path: Path) -> None:
    plan = job(tmp_path).plan
    futures = [worker.submit(Task(plan.shard(i))) for i in range(plan.shard_count)]
    assert not wait(futures, timeout=900).not_done
    reports = [future.result() for future in futures]
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
    first = worker.submit(Task(shard)).result(timeout=900)
    again = worker.submit(Task(shard, attempt=2)).result(timeout=900)
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
    assert worker.submit(Task(plan.shard(1))).result(timeout=900).rows == 2, "it works on"


def test_an_input_that_is_gone_fails_its_shard_only(worker: Worker, tmp_path: Path) -> None:
    plan = job(tmp_path).plan
    assert worker.submit(Task(plan.shard(0))).result(timeout=900).rows == 2
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
        with pytest.raises(RuntimeError, match="the engine is broken"):
            future.result(timeout=900)
    with pytest.raises(RuntimeError, match="the engine is broken"):
        worker.submit(Task(plan.shard(4))).result(timeout=900)


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
