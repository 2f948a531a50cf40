"""What verify wrote down is set aside once, and nothing else is touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.output.part import part_name
from pipeline.output.repair import FINDINGS, repair, write_down
from pipeline.planning.plan import InputFile, make_plan
from pipeline.store.local import LocalStore

PLAN = make_plan([InputFile("a.parquet", "/a.parquet", 1, 4, "0")], {}, rows_per_shard=2)
A, B = (part_name(PLAN.plan8, index, 2) for index in range(2))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    made = LocalStore(tmp_path)
    made.put(A, b"damaged")
    made.put(B, b"good")
    return made


def names(store: LocalStore) -> set[str]:
    return {file.name for file in store.list()}


def test_what_is_damaged_is_set_aside_and_nothing_is_lost(store: LocalStore) -> None:
    write_down(store, [A, "data/missing.parquet"])
    (line,) = repair(store, PLAN)
    assert line.startswith(f"{A}: was found damaged by verify; it is set aside as _job/set_aside/")
    aside = line.rpartition(" ")[2]
    assert store.get(aside) == b"damaged"
    assert names(store) == {B, aside}
    assert list(repair(store, PLAN)) == []


def test_a_file_that_was_made_again_meanwhile_stays(store: LocalStore) -> None:
    write_down(store, [A])
    store.put(A, b"made again")
    assert list(repair(store, PLAN)) == []
    assert store.get(A) == b"made again"
    assert FINDINGS not in names(store)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_folder_of_another_plan_is_left_as_it_is(store: LocalStore, damaged: bool) -> None:
    other = make_plan([InputFile("b.parquet", "/b.parquet", 1, 4, "0")], {"seed": 1}, rows_per_shard=2)
    store.put("_job/plan.json", b"{" if damaged else other.to_json())
    store.delete(A)
    store.delete(B)
    store.put(part_name(other.plan8, 0, 2), b"part")
    write_down(store, [part_name(other.plan8, 0, 2)])
    before = names(store)
    assert list(repair(store, PLAN)) == []
    assert names(store) == before
    assert len(list(repair(store, other))) == 1


def test_nothing_damaged_is_not_written_down(store: LocalStore) -> None:
    write_down(store, ["data/missing.parquet"])
    assert FINDINGS not in names(store)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"files": []}',
        b'{"files": {"../x": "0", "_job/config.yaml": "0", "/etc/passwd": "0", "": "0"}}',
    ],
)
def test_a_list_that_is_not_ours_moves_nothing(store: LocalStore, content: bytes) -> None:
    store.put("_job/config.yaml", b"c")
    store.put(FINDINGS, content)
    assert list(repair(store, PLAN)) == []
    assert names(store) == {A, B, "_job/config.yaml"}


def test_only_parts_plan_and_manifest_are_moved(store: LocalStore) -> None:
    store.put("_job/config.yaml", b"c")
    store.put("_job/plan.json", b"p")
    write_down(store, ["_job/config.yaml", "_job/plan.json"])
    assert len(json.loads(store.get(FINDINGS))["files"]) == 2
    assert len(list(repair(store, PLAN))) == 1
    assert "_job/config.yaml" in names(store) and "_job/plan.json" not in names(store)


def test_a_file_of_the_users_own_is_never_moved(store: LocalStore) -> None:
    store.put("_job/plan.json", PLAN.to_json())
    mine = [
        "data/train.parquet",
        "data/sub/x.parquet",
        part_name("0" * 8, 0, 2),
        "data/" + A.removeprefix("data/").upper(),
    ]
    for name in mine:
        store.put(name, b"mine")
    write_down(store, [*mine, A])
    assert len(list(repair(store, PLAN))) == 1
    assert all(store.get(name) == b"mine" for name in mine)
