"""The benchmark of the driver at a small size: the run is complete, and its figures are of this run."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks import scale
from benchmarks.parts.virtual import Meter, Metered, Parts, PartStore
from pipeline.output.part import part_name, read_report
from pipeline.output.record.manifest import MANIFEST, Manifest

SHARDS = 60


def options(**others: Any) -> argparse.Namespace:
    given = {"shards": SHARDS, "replicas": 7, "files": 9, "committed": 0, "stop_after": None, "latency_ms": 0.0}
    return argparse.Namespace(**{**given, **others})


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> list[PartStore]:
    made: list[PartStore] = []

    class Kept(PartStore):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(scale, "PartStore", Kept)
    return made


def check(manifest: Manifest) -> None:
    plan = scale.plan_of(SHARDS, 9)
    assert [part.file for part in manifest.parts] == [part_name(plan.plan8, index, SHARDS) for index in range(SHARDS)]
    assert manifest.totals.rows == SHARDS * scale.ROWS_PER_SHARD == sum(part.rows for part in manifest.parts)
    assert len({part.sha256 for part in manifest.parts}) == SHARDS


def test_every_shard_is_committed_once_and_the_output_is_complete(stores: list[PartStore]) -> None:
    figures = scale.measure(options())
    (store,) = stores
    assert SHARDS <= figures["calls"]["commit"] <= figures["made"], "the last ones may be made twice, as below"
    assert bytes(store.there) == b"\1" * SHARDS
    check(Manifest.from_json(store.files[MANIFEST]))
    assert not [name for name in store.files if name.startswith("_job/claims/")]
    assert figures["calls"]["put_if_absent _job/claims"] == figures["calls"]["delete _job/claims"] == SHARDS
    assert 0 < figures["dispatch_ms_a_shard"] < figures["driver_ms_a_shard"]


def test_a_resumed_run_does_the_rest_and_reads_what_was_there(stores: list[PartStore]) -> None:
    figures = scale.measure(options(committed=20))
    assert SHARDS - 20 <= figures["made"] < SHARDS, "the last ones may be made twice, where one replica is late"
    check(Manifest.from_json(stores[0].files[MANIFEST]))


def test_the_time_to_the_first_task_is_taken_without_doing_it(stores: list[PartStore]) -> None:
    figures = scale.measure(options(committed=20, stop_after=0))
    assert (figures["made"], sum(stores[0].there)) == (0, 20)
    assert figures["first_task_seconds"] > 0 and figures["driver_ms_a_shard"] is None
    assert MANIFEST not in stores[0].files


def test_real_files_are_committed_in_a_folder(tmp_path: Path) -> None:
    scale.measure(options(), str(tmp_path))
    manifest = Manifest.from_json((tmp_path / MANIFEST).read_bytes())
    check(manifest)
    for part in manifest.parts:
        data = (tmp_path / part.file).read_bytes()
        assert hashlib.sha256(data).hexdigest() == part.sha256
    assert pq.read_table(tmp_path / manifest.parts[0].file).num_rows == 1


def test_a_made_up_part_is_read_as_a_real_one() -> None:
    parts = Parts(scale.plan_of(SHARDS, 9))
    store = PartStore(parts, 2)
    info = read_report(store, parts.name(1))
    assert (info.plan_id, info.shard, info.counts.rows) == (parts.plan.plan_id, 1, scale.ROWS_PER_SHARD)
    assert [file.name for file in store.list("data/")] == [parts.name(0), parts.name(1)]
    with pytest.raises(FileNotFoundError):
        store.size(parts.name(2))
    with pytest.raises(AssertionError):
        store.put_if_absent(parts.name(2), b"other bytes")


def test_the_meter_tells_calls_apart_by_folder() -> None:
    meter = Meter(latency=0.01)
    store = Metered(PartStore(Parts(scale.plan_of(3, 1))), meter)
    store.put("_job/plan.json", b"1")
    store.put("_job/claims/00001", b"2")
    assert len(list(store.list("_job/claims/"))) == 1
    store.sweep(1.0)
    assert set(meter.calls) == {"put _job", "put _job/claims", "list _job/claims", "sweep"}
    assert all(seconds >= 0.01 for seconds in meter.wall.values())


def test_the_table_has_a_row_a_size() -> None:
    figures = scale.measure(options())
    lines = scale.table([figures, figures]).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| 60 | 7 | 0 |")
    assert json.loads(json.dumps(figures)) == figures
