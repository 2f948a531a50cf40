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
from pipeline.types import SamplingParams
from pipeline.worker import Job, Worker

MODEL = Path(__file__).parents[1] / "examples" / "demo-model"
PROMPTS = ["The train to", None, "Lost", "", "A simple recipe for", "Dear Anna,", "Once there was", None, ""]


def job(folder: Path, **output: Any) -> Job:
    source = folder / "in.parquet"
    if not source.exists():
        pq.write_table(pa.table({"prompt": pa.array(PROMPTS, pa.string())}), source)
    config = GenerateConfig(
        model=ModelConfig(path=str(MODEL)),
        engine=EngineConfig(max_num_seqs=4),
        sampling=SamplingParams(n=2, max_tokens=4),
        source=SourceConfig(path=str(source)),
        output=OutputConfig(path=str(folder / "out"), rows_per_shard=2, **output),
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
    futures = [worker.submit(plan.shard(i)) for i in range(plan.shard_count)]
    assert not wait(futures, timeout=60).not_done
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


def test_a_shard_that_is_there_is_recognised(worker: Worker, tmp_path: Path) -> None:
    shard = job(tmp_path).plan.shard(2)
    first = worker.submit(shard).result(timeout=60)
    again = worker.submit(shard, attempt=2).result(timeout=60)
    assert (first.already_there, again.already_there) == (False, True)
    assert again.sha256 == first.sha256
    assert pq.read_schema(tmp_path / "out" / first.file).metadata[b"promptmill.attempt"] == b"1"


def test_a_foreign_file_in_its_place_is_not_touched(worker: Worker, tmp_path: Path) -> None:
    plan = job(tmp_path).plan
    name = tmp_path / "out" / "data" / f"{plan.plan8}-00000-of-00005.parquet"
    name.parent.mkdir(parents=True)
    name.write_bytes(b"mine")
    with pytest.raises(PlanRefused, match="is not a part"):
        worker.submit(plan.shard(0)).result(timeout=60)
    assert name.read_bytes() == b"mine"
    assert worker.submit(plan.shard(1)).result(timeout=60).rows == 2, "it works on"


def test_an_input_that_is_gone_fails_its_shard_only(worker: Worker, tmp_path: Path) -> None:
    plan = job(tmp_path).plan
    assert worker.submit(plan.shard(0)).result(timeout=60).rows == 2
    content = (tmp_path / "in.parquet").read_bytes()
    (tmp_path / "in.parquet").write_bytes(content[:10] + bytes(len(content) - 20) + content[-10:])
    failed = Worker(job_of(worker), threads=1)
    with pytest.raises(PromptmillError, match=r"in\.parquet"):
        failed.submit(plan.shard(2)).result(timeout=60)
    failed.close()


def job_of(worker: Worker) -> Job:
    return worker._job


def test_an_error_of_the_engine_reaches_every_shard_in_hand_and_to_come(worker: Worker, tmp_path: Path) -> None:
    plan = job(tmp_path).plan

    def broken() -> Any:
        raise RuntimeError("the engine is broken")

    worker._engine.step = broken  # type: ignore[method-assign]
    futures = [worker.submit(plan.shard(i)) for i in range(4)]
    for future in futures:
        with pytest.raises(RuntimeError, match="the engine is broken"):
            future.result(timeout=60)
    with pytest.raises(RuntimeError, match="the engine is broken"):
        worker.submit(plan.shard(4)).result(timeout=60)


def test_closing_with_work_in_hand(tmp_path: Path) -> None:
    made = Worker(job(tmp_path), threads=1)
    made.submit(job(tmp_path).plan.shard(0))
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
