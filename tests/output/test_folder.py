"""Claiming a folder, and what it says about a run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import PlanRefused
from pipeline.output.folder import CONFIG, PLAN, OutputFolder
from pipeline.output.record.manifest import MANIFEST
from pipeline.planning.plan import InputFile, Plan, make_plan
from pipeline.store.base import StoredFile
from pipeline.store.local import LocalStore
from tests.output.made_output import commit, finish, plan


@pytest.fixture
def folder(store: LocalStore) -> OutputFolder:
    return OutputFolder(store)


def test_a_new_folder_takes_the_plan(folder: OutputFolder) -> None:
    made = plan()
    assert folder.claim_plan(made) == made
    assert Plan.from_json(folder.store.get(PLAN)) == made


def test_the_stored_layout_wins_on_a_resume(folder: OutputFolder) -> None:
    first = folder.claim_plan(plan(rows_per_shard=4))
    again = folder.claim_plan(plan(rows_per_shard=7))
    assert (again.rows_per_shard, again.shard_count) == (4, 3)
    assert [again.shard(i) for i in range(3)] == [first.shard(i) for i in range(3)]


def test_inputs_that_moved_are_read_where_they_are_now(folder: OutputFolder) -> None:
    files = [InputFile(name, f"/old/{name}", 10, 3, "aa") for name in ("a", "b")]
    moved = [dataclasses.replace(file, path=f"/new/{file.name}") for file in reversed(files)]
    folder.claim_plan(make_plan(files, {}, rows_per_shard=2))
    again = folder.claim_plan(make_plan(moved, {}, rows_per_shard=2))
    assert [(file.name, file.path) for file in again.files] == [("a", "/new/a"), ("b", "/new/b")]


def test_another_plan_is_refused_with_each_key_that_differs(folder: OutputFolder) -> None:
    folder.claim_plan(plan(model="gpt2", dtype="float32"))
    with pytest.raises(PlanRefused) as caught:
        folder.claim_plan(plan(model="gpt2-large", dtype="float32", sampling={"seed": 1, "stop": ("x",)}))
    what_to_do, lines = str(caught.value).split("what differs: ")
    assert "choose another output.path, or restore" in what_to_do
    assert sorted(lines.split("; ")) == ["model: gpt2 → gpt2-large", "sampling.seed: 0 → 1"]


def test_an_input_that_changed_is_named(folder: OutputFolder) -> None:
    made = plan()
    folder.claim_plan(made)
    changed = dataclasses.replace(made.files[0], footer_sha256="cd" * 32)
    options = {key: value for key, value in made.fingerprint.items() if key != "input"}
    with pytest.raises(PlanRefused, match=r"input\.in/a\.parquet\.footer: abab.* → cdcd"):
        folder.claim_plan(make_plan([changed], options, rows_per_shard=4))


def test_another_number_of_rows_under_the_same_id_is_refused(folder: OutputFolder) -> None:
    folder.claim_plan(plan(rows=10))
    with pytest.raises(PlanRefused, match=r"planned for 10 rows, not 5.*source\.limit"):
        folder.claim_plan(dataclasses.replace(plan(rows=10), rows=5))


@pytest.mark.parametrize("found", [b"", b"{}", b"[]", b"\xff", b'{"format": 99}', b'{"name": "a plan of mine"}'])
def test_a_plan_that_is_not_ours_is_refused(folder: OutputFolder, found: bytes) -> None:
    folder.store.put(PLAN, found)
    with pytest.raises(PlanRefused, match=r"plan\.json cannot be used"):
        folder.claim_plan(plan())
    assert folder.store.get(PLAN) == found


@pytest.mark.parametrize("fingerprint", [{"seed": 9}, "text", None])
def test_a_plan_changed_by_hand_is_refused(folder: OutputFolder, fingerprint: object) -> None:
    body = json.loads(plan().to_json())
    folder.store.put(PLAN, json.dumps({**body, "fingerprint": fingerprint}).encode())
    with pytest.raises(PlanRefused, match=r"plan\.json cannot be used"):
        folder.claim_plan(plan())


def test_of_drivers_with_different_plans_one_gets_the_folder(folder: OutputFolder) -> None:
    def claim(number: int) -> str | None:
        try:
            return folder.claim_plan(plan(seed=number)).plan_id
        except PlanRefused:
            return None

    with ThreadPoolExecutor(8) as pool:
        got = [plan_id for plan_id in pool.map(claim, range(8)) if plan_id]
    assert got == [Plan.from_json(folder.store.get(PLAN)).plan_id]


def test_drivers_with_the_same_plan_agree_on_the_layout(folder: OutputFolder) -> None:
    with ThreadPoolExecutor(8) as pool:
        layouts = set(pool.map(lambda n: folder.claim_plan(plan(rows_per_shard=n)).rows_per_shard, range(1, 9)))
    assert len(layouts) == 1


def test_other_files_do_not_matter(folder: OutputFolder) -> None:
    made = plan()
    folder.store.put("data/notes.txt", b"")
    folder.store.put("data/other.parquet", b"")
    assert folder.claim_plan(made) == made
    assert folder.committed(made) == set()


def test_parts_without_their_plan_are_refused_unless_they_fit(folder: OutputFolder) -> None:
    made = plan(rows_per_shard=4)
    commit(folder.store, made, 1)
    with pytest.raises(PlanRefused, match="is no part of this plan"):
        folder.claim_plan(plan(rows_per_shard=5))
    with pytest.raises(PlanRefused, match="is no part of this plan"):
        folder.claim_plan(plan(model="other"))
    assert folder.committed(folder.claim_plan(made)) == {1}


def test_parts_of_a_driver_that_claims_meanwhile_are_not_taken_for_strays(store: LocalStore) -> None:
    first = plan(rows_per_shard=4)

    class Race(LocalStore):
        def list(self, prefix: str = "") -> Iterator[StoredFile]:
            OutputFolder(store).claim_plan(first)
            commit(store, first, 0)
            return super().list(prefix)

    assert OutputFolder(Race(store.root)).claim_plan(plan(rows_per_shard=5)).rows_per_shard == 4


def test_committed_shards_are_known_by_name(folder: OutputFolder) -> None:
    made = plan()
    for index in (0, 2):
        commit(folder.store, made, index)
    for name in (f"{made.plan8}-00001-of-00004", f"{made.plan8}-00003-of-00003", "01234567-00001-of-00003"):
        folder.store.put(f"data/{name}.parquet", b"")
    assert folder.committed(made) == {0, 2}


def test_finished_only_while_every_part_is_there(folder: OutputFolder) -> None:
    made = folder.claim_plan(plan())
    assert folder.finished(made) is None
    manifest = finish(folder.store, made, {i: commit(folder.store, made, i) for i in range(3)}, {}, {})
    assert folder.finished(made) == manifest
    folder.store.delete(manifest.parts[1].file)
    assert folder.finished(made) is None
    assert MANIFEST not in [file.name for file in folder.store.list()]
    assert folder.committed(made) == {0, 2}


def test_a_manifest_of_another_plan_is_refused(folder: OutputFolder) -> None:
    made = plan(rows=1)
    finish(folder.store, made, {0: commit(folder.store, made, 0)}, {}, {})
    with pytest.raises(PlanRefused, match=f"is of plan {made.plan8}"):
        folder.finished(plan(rows=2))


def test_the_configuration_is_kept(folder: OutputFolder) -> None:
    folder.save_config("model: ${oc.env:MODEL}\n")
    folder.save_config("name: é\n")
    assert folder.store.get(CONFIG) == "name: é\n".encode()


@pytest.mark.parametrize("driver", ["../x", "a/b", "", ".", "a\n"])
def test_a_driver_s_id_is_never_a_path(folder: OutputFolder, driver: str) -> None:
    if driver in ("", "."):
        driver += "/"
    with pytest.raises(ValueError, match="must be"):
        folder.events(driver)


def test_each_driver_has_its_own_events(folder: OutputFolder) -> None:
    for driver in ("a", "b"):
        with folder.events(driver) as log:
            log.add("started", driver=driver)
    assert [file.name for file in folder.store.list("_job/events/")] == ["_job/events/a.jsonl", "_job/events/b.jsonl"]
