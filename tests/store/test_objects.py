"""A bucket on moto's server: whole files or none, put if absent, lost replies, refusals, and a whole job on `s3://`."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import PlanRefused, StoreUnavailable
from pipeline.output.foreign import check_vacant
from pipeline.store.base import Entry, Kind, open_store
from pipeline.store.objects import ATTEMPTS, ObjectStore
from tests.store.bucket_server import Door
from tests.store.bucket_server import door as door
from tests.store.bucket_server import server as server


@pytest.fixture
def store(door: Door) -> ObjectStore:
    made = open_store("s3://bucket/some/where")
    assert isinstance(made, ObjectStore)
    return made


def test_put_if_absent_makes_a_file_once(store: ObjectStore) -> None:
    store.probe()
    assert store.put_if_absent("data/a", b"first")
    assert not store.put_if_absent("data/a", memoryview(b"second"))
    assert store.get("data/a") == b"first"
    store.put("data/a", b"third")
    assert store.get("data/a") == b"third"
    assert [f.name for f in store.list()] == ["data/a"], "the probe left nothing"


def test_entries_are_those_of_one_folder_and_a_file_is_moved(store: ObjectStore) -> None:
    for name in ("a", "data/x/y", "data/z"):
        store.put(name, b"1")
    assert set(store.entries()) == {Entry("a", Kind.FILE), Entry("data", Kind.FOLDER)}
    assert set(store.entries("data/")) == {Entry("data/x", Kind.FOLDER), Entry("data/z", Kind.FILE)}
    assert list(store.entries("none/")) == []
    store.move("data/z", "aside/z")
    assert {f.name for f in store.list()} == {"a", "data/x/y", "aside/z"}
    with pytest.raises(FileNotFoundError):
        store.move("data/z", "aside/z")


def test_reading(store: ObjectStore) -> None:
    store.put("d/a", b"0123456789")
    assert store.size("d/a") == 10
    with store.open("d/a") as file:
        file.seek(4)
        assert file.read(2) == b"45"
        assert file.seek(-1, io.SEEK_END) == 9
        assert (file.read(), file.read(), file.tell()) == (b"9", b"", 10)


def test_a_parquet_file_is_read_in_place(store: ObjectStore) -> None:
    table = pa.table({"x": list(range(100_000))})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    store.put("data/a.parquet", sink.getvalue().to_pybytes())
    with store.open("data/a.parquet") as file:
        assert pq.read_table(file).equals(table)


def test_listing_is_sorted_and_by_prefix(store: ObjectStore) -> None:
    for name in ("data/b", "data/a", "data2/x", "_job/plan.json"):
        store.put(name, b"xy")
    assert [f.name for f in store.list("data/")] == ["data/a", "data/b"]
    assert [f.name for f in store.list("data")] == ["data/a", "data/b", "data2/x"]
    assert [f.name for f in store.list("_job/pl")] == ["_job/plan.json"]
    (file, *_) = store.list()
    assert (file.size, file.last_modified > 1_700_000_000) == (2, True)


def test_what_is_not_there(store: ObjectStore) -> None:
    for operation in (store.get, store.size, store.open):
        with pytest.raises(FileNotFoundError):
            operation("data/none")
    store.delete("data/none")
    assert list(store.list()) == []
    assert store.sweep(0) == 0


@pytest.mark.parametrize("name", ["/a", "a/../b", "", "a//b"])
def test_names_that_lead_elsewhere_are_refused(store: ObjectStore, name: str) -> None:
    for operation in (
        store.get,
        store.size,
        store.delete,
        lambda n: store.put(n, b""),
        lambda n: store.put_if_absent(n, b""),
    ):
        with pytest.raises(ValueError, match="relative name"):
            operation(name)


def test_of_many_threads_one_wins(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda n: store.put_if_absent("data/a", bytes([n]) * 1000), range(8)))
    assert won.count(True) == 1
    assert store.get("data/a") == bytes([won.index(True)]) * 1000


@pytest.mark.parametrize("trouble", ["503 Slow Down", "500 Internal Error", "429 Too Many Requests"])
def test_fault_19_refusals_are_repeated(store: ObjectStore, door: Door, trouble: str) -> None:
    door.troubles = [("PUT", trouble)] * 2
    assert store.put_if_absent("data/a", b"x")
    assert store.get("data/a") == b"x"
    assert door.troubles == []


def test_fault_19_a_conflict_that_came_to_nothing_is_asked_again(store: ObjectStore, door: Door) -> None:
    door.troubles = [("PUT", "409 Conditional Request Conflict")]
    assert store.put_if_absent("data/a", b"x")
    assert store.get("data/a") == b"x"


def test_fault_19_a_conflict_with_one_that_was_quicker_is_lost(store: ObjectStore, door: Door) -> None:
    store.put("data/a", b"theirs")
    door.troubles = [("PUT", "409 Conditional Request Conflict")]
    assert not store.put_if_absent("data/a", b"x")


def test_fault_19_conflicts_without_end_stop_the_run_resumable(store: ObjectStore, door: Door) -> None:
    pauses: list[float] = []
    store._pause = pauses.append
    door.troubles = [("PUT", "409 Conditional Request Conflict")] * ATTEMPTS
    with pytest.raises(StoreUnavailable, match=f"not there after {ATTEMPTS} attempts") as raised:
        store.put_if_absent("data/a", b"x")
    assert raised.value.exit_code == 75
    assert len(pauses) == ATTEMPTS and len(set(pauses)) > 1, "with jitter"


def test_fault_18_a_put_that_was_applied_and_its_reply_lost(store: ObjectStore, door: Door) -> None:
    door.troubles = [("PUT", "lost")]
    assert not store.put_if_absent("data/a", b"mine"), "it finds its own file; whose it is, the content says"
    assert store.get("data/a") == b"mine"


def test_fault_18_a_put_that_timed_out_and_was_applied(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.objects.TIMEOUT_SECONDS", 3)
    door.troubles = [("PUT", "late")]
    store = open_store("s3://bucket/some/where")
    assert not store.put_if_absent("data/a", b"mine")
    assert store.get("data/a") == b"mine"


def test_a_store_without_put_if_absent_is_refused(store: ObjectStore, door: Door) -> None:
    door.ignored = ("If-None-Match",)
    with pytest.raises(PlanRefused, match=r"does not honour put-if-absent .* output\.allow_unsafe_store=true"):
        store.probe()
    assert list(store.list()) == []
    unsafe = open_store("s3://bucket/some/where", allow_unsafe=True)
    unsafe.probe()
    assert unsafe.put_if_absent("a", b"1")
    assert not unsafe.put_if_absent("a", b"2")


def test_no_such_bucket(door: Door) -> None:
    with pytest.raises(PlanRefused, match="s3://nowhere/x: there is no such bucket"):
        open_store("s3://nowhere/x").put_if_absent("a", b"")


def test_not_permitted(store: ObjectStore, door: Door) -> None:
    door.troubles = [("PUT", "403 Access Denied")]
    with pytest.raises(PlanRefused, match="not permitted; check the credentials in the environment"):
        store.put("a", b"")


def test_nobody_there(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("pipeline.store.objects.RETRY_SECONDS", 0)
    with pytest.raises(StoreUnavailable, match="s3://bucket/x"):
        open_store("s3://bucket/x").put("a", b"")


def test_credentials_of_a_profile(door: Door, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "credentials").write_text("[nightly]\naws_access_key_id = key\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "nightly")
    assert open_store("s3://bucket/x").put_if_absent("a", b"1")
    monkeypatch.setenv("AWS_PROFILE", "another")
    with pytest.raises(PlanRefused, match="AWS profile another"):
        open_store("s3://bucket/x")


def test_a_folder_that_a_console_made_is_empty(store: ObjectStore, door: Door) -> None:
    for key in ("some/where/", "some/where/data/"):
        boto3.client("s3").put_object(Bucket="bucket", Key=key, Body=b"")
    assert list(store.entries()) == [Entry("data", Kind.FOLDER)]
    assert list(store.entries("data/")) == []
    check_vacant(store, "s3://bucket/some/where")
    store.put("data/a", b"1")
    assert [f.name for f in store.list("data/")] == ["data/a"]


def test_a_user_without_a_home_directory(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError("no such user")))
    open_store("s3://bucket/x")


@pytest.mark.parametrize("uri", ["s3://", "ftp://host/x", "s3:///x", "s3://bucket/runs#2", "s3://bucket/x?region=y"])
def test_uris_that_lead_nowhere(uri: str) -> None:
    with pytest.raises(PlanRefused, match=r"output\.path="):
        open_store(uri)
