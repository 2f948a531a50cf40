"""What a node must see; the same path with other things behind it stands in for another machine."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import InputRefused, ModelRefused, PlanRefused
from pipeline.output.folder import OutputFolder
from pipeline.run.cluster.reach import check_reach
from pipeline.store.base import open_store
from pipeline.work.job import Job
from pipeline.work.prepare import prepare
from tests.small_runs import MODEL, configured, write


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job that the driver has planned, in its own current folder."""
    monkeypatch.chdir(tmp_path)
    write({"prompt": ["a", "b"]}, Path("in.parquet"))
    shutil.copytree(MODEL, "model")
    prepared = prepare(configured("in.parquet", "out", model={"path": "model"}))
    made = replace(prepared.job, plan=OutputFolder(open_store("out")).claim_plan(prepared.job.plan))
    monkeypatch.chdir("/")
    return made


def test_all_is_seen_from_another_folder(job: Job) -> None:
    check_reach(job)


def test_an_output_folder_that_is_not_shared(job: Job) -> None:
    shutil.rmtree(job.output.path)
    with pytest.raises(PlanRefused, match=r"output\.path=.*/out: does not hold the plan .* a folder that they share"):
        check_reach(job)


def test_a_model_that_is_missing_or_another(job: Job) -> None:
    weights = Path(job.model.path) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelRefused, match=r"model/model\.safetensors is not what the driver has"):
        check_reach(job)
    shutil.rmtree(job.model.path)
    with pytest.raises(ModelRefused, match=r"model\.path=.*there is no such directory"):
        check_reach(job)


def test_an_input_that_is_missing_or_another(job: Job) -> None:
    write({"prompt": ["c", "d"]}, Path(job.plan.files[0].path))
    with pytest.raises(InputRefused, match=r"in\.parquet"):
        check_reach(job)
    Path(job.plan.files[0].path).unlink()
    with pytest.raises(InputRefused, match=r"in\.parquet"):
        check_reach(job)
