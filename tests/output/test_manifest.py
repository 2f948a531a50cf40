"""Finishing: what must be there, and what the manifest says."""

from __future__ import annotations

import hashlib
import json
import logging
import math

import pytest

from pipeline.errors import PlanRefused, WorkerFailed
from pipeline.output.part import part_name
from pipeline.output.record.counts import Counts
from pipeline.output.record.manifest import MANIFEST, Manifest, assemble, put_manifest, read_manifest
from pipeline.store.local import LocalStore
from tests.output.made_output import commit, finish, plan

TIMINGS = {"wall_seconds": 2.5, "engine_seconds": 2.0, "tokens_per_second": 10.0}


def test_the_file_is_that_of_the_contract(store: LocalStore) -> None:
    made = plan()
    manifest = finish(store, made, {i: commit(store, made, i) for i in range(3)}, TIMINGS, {"torch": "2", "threads": 2})
    body = json.loads(store.get(MANIFEST))
    assert list(body) == ["plan_id", "promptmill_version", "totals", "timings", "parts", "environment"]
    assert body["plan_id"] == made.plan_id
    assert body["totals"]["rows"] == 10
    assert body["totals"]["completions"] == 20
    assert list(body["totals"]) == [
        "rows", "completions", "prompt_tokens", "completion_tokens", "errors",
        "finish_reasons", "lengths", "clamped_rows", "cut_off",
    ]  # fmt: skip
    assert sum(body["totals"]["finish_reasons"].values()) == 20
    assert body["timings"] == TIMINGS
    names = [part_name(made.plan8, i, 3) for i in range(3)]
    assert body["parts"] == [
        {"file": name, "rows": rows, "sha256": hashlib.sha256(store.get(name)).hexdigest()}
        for name, rows in zip(names, (4, 4, 2), strict=True)
    ]
    assert body["environment"] == {"torch": "2", "threads": 2}
    assert read_manifest(store) == manifest == Manifest.from_json(manifest.to_json())


def test_other_files_can_be_made_from_the_manifest_before_it_is_put(store: LocalStore) -> None:
    made = plan(rows=1)
    manifest = assemble(store, made, {0: commit(store, made, 0)}, TIMINGS, {})
    assert read_manifest(store) is None
    assert put_manifest(store, manifest) == manifest == read_manifest(store)


def test_a_resumed_run_makes_the_same_totals_from_footers(store: LocalStore) -> None:
    made = plan(rows=12, rows_per_shard=5)
    reports = {i: commit(store, made, i) for i in range(3)}
    whole = finish(store, made, reports, TIMINGS, {})
    for known in ({}, {1: reports[1]}):
        store.delete(MANIFEST)
        assert finish(store, made, known, TIMINGS, {}) == whole
    assert whole.totals.errors == {"EMPTY_PROMPT": 4}


def test_a_shard_that_was_there_already_counts_with_the_bytes_that_are_there(store: LocalStore) -> None:
    made = plan(rows=4)
    first = commit(store, made, 0, attempt="1")
    second = commit(store, made, 0, attempt="2")
    assert second.already_there
    assert second.sha256 != first.sha256
    assert finish(store, made, {0: second}, TIMINGS, {}).parts[0].sha256 == first.sha256


def test_missing_parts_are_named(store: LocalStore) -> None:
    made = plan()
    reports = {i: commit(store, made, i) for i in range(3)}
    store.delete(reports[1].file)
    with pytest.raises(WorkerFailed, match=f"1 of 3 parts are missing: {reports[1].file}"):
        finish(store, made, reports, TIMINGS, {})
    assert read_manifest(store) is None


def test_many_missing_parts_are_counted(store: LocalStore) -> None:
    with pytest.raises(WorkerFailed, match=r"25 of 25 parts are missing: .* and 20 more"):
        finish(store, plan(rows=25, rows_per_shard=1), {}, TIMINGS, {})


def test_a_part_with_other_rows_than_planned_is_refused(store: LocalStore) -> None:
    made = plan()
    for i in range(3):
        commit(store, made, i)
    store.put(part_name(made.plan8, 2, 3), store.get(part_name(made.plan8, 1, 3)))
    with pytest.raises(WorkerFailed, match="holds 4 input rows; 2 were planned"):
        finish(store, made, {}, TIMINGS, {})


def test_a_part_that_cannot_be_read_is_named(store: LocalStore) -> None:
    made = plan(rows=1)
    store.put(part_name(made.plan8, 0, 1), b"PAR1" * 4)
    with pytest.raises(WorkerFailed, match=f"{made.plan8}-00000-of-00001.parquet: not a readable Parquet file"):
        finish(store, made, {}, TIMINGS, {})


def test_a_part_of_another_plan_is_refused(store: LocalStore) -> None:
    made, other = plan(rows=4), plan(rows=4, model="other")
    report = commit(store, other, 0)
    store.put(part_name(made.plan8, 0, 1), store.get(report.file))
    with pytest.raises(PlanRefused, match=f"belongs to plan {other.plan8}"):
        finish(store, made, {}, TIMINGS, {})


def test_foreign_files_are_left_alone_with_a_warning(store: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    made = plan(rows=1)
    report = commit(store, made, 0)
    store.put("data/notes.txt", b"mine")
    with caplog.at_level(logging.WARNING):
        assert len(finish(store, made, {0: report}, TIMINGS, {}).parts) == 1
    assert "data/notes.txt" in caplog.text
    assert store.get("data/notes.txt") == b"mine"


def test_the_first_manifest_stays(store: LocalStore) -> None:
    made = plan(rows=1)
    reports = {0: commit(store, made, 0)}
    first = finish(store, made, reports, TIMINGS, {"driver": "a"})
    assert finish(store, made, reports, {"wall_seconds": 9.0}, {"driver": "b"}) == first == read_manifest(store)


def test_a_manifest_of_bytes_that_are_gone_is_replaced(store: LocalStore) -> None:
    made = plan(rows=1)
    first = finish(store, made, {0: commit(store, made, 0)}, TIMINGS, {})
    store.delete(first.parts[0].file)
    again = finish(store, made, {0: commit(store, made, 0, attempt="2")}, TIMINGS, {})
    assert again.parts != first.parts
    assert read_manifest(store) == again


def test_an_empty_input_is_a_success(store: LocalStore) -> None:
    made = plan(rows=0)
    assert finish(store, made, {0: commit(store, made, 0)}, TIMINGS, {}).totals == Counts()


def test_a_rate_without_a_value_is_null(store: LocalStore) -> None:
    made = plan(rows=0)
    timings = {"tokens_per_second": math.nan, "engine_seconds": 0.0}
    finish(store, made, {0: commit(store, made, 0)}, timings, {})
    assert json.loads(store.get(MANIFEST))["timings"] == {"tokens_per_second": None, "engine_seconds": 0.0}


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"totals": 1}', b'{"totals": {}, "parts": []}'])
def test_a_file_that_is_no_manifest_is_refused(store: LocalStore, data: bytes) -> None:
    store.put(MANIFEST, data)
    with pytest.raises(PlanRefused, match="is not a manifest"):
        read_manifest(store)
