"""Whole files or none: races, kills, full disks and refused permissions."""

from __future__ import annotations

import errno
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PlanRefused, StorageFull
from pipeline.store.base import StoredFile
from pipeline.store.local import LocalStore
from pipeline.store.process import me

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "out")


def temporaries(store: LocalStore) -> list[Path]:
    folder = store.root / "_job" / "tmp"
    return list(folder.iterdir()) if folder.exists() else []


def run(store: LocalStore, code: str) -> subprocess.CompletedProcess[bytes]:
    """Run `code` in a separate process, with `store` at hand."""
    head = f"import os, signal; from pipeline.store.local import LocalStore; store = LocalStore({str(store.root)!r})\n"
    return subprocess.run([sys.executable, "-c", head + code], cwd=REPOSITORY, capture_output=True, check=False)


def test_put_if_absent_makes_a_file_once(store: LocalStore) -> None:
    assert store.put_if_absent("data/a", b"first")
    assert not store.put_if_absent("data/a", b"second")
    assert store.get("data/a") == b"first"
    assert temporaries(store) == []


def test_put_replaces(store: LocalStore) -> None:
    store.put("a", b"first")
    store.put("a", memoryview(b"second"))
    assert store.get("a") == b"second"
    assert temporaries(store) == []


def test_reading(store: LocalStore) -> None:
    store.put("d/a", b"0123456789")
    assert store.size("d/a") == 10
    with store.open("d/a") as file:
        file.seek(4)
        assert file.read(2) == b"45"


def test_what_is_not_there(store: LocalStore) -> None:
    for operation in (store.get, store.size, store.open):
        with pytest.raises(FileNotFoundError):
            operation("data/none")
    store.delete("data/none")
    assert list(store.list()) == list(store.list("data/")) == []
    assert store.sweep(0) == 0
    assert not store.root.exists()


def test_delete(store: LocalStore) -> None:
    store.put("a", b"")
    store.delete("a")
    store.delete("a")
    assert list(store.list()) == []


def test_a_listing_is_sorted_by_name_and_shows_no_temporaries(store: LocalStore) -> None:
    for name in ("data/b", "data.x", "data/a/c", "data/a.c", "_job/plan.json", "_job/tmpx", "data2/a"):
        store.put(name, name.encode())
    (store.root / "_job" / "tmp" / "left").write_bytes(b"x")
    (store.root / "data" / "nowhere").symlink_to("missing")
    names = [file.name for file in store.list()]
    assert names == sorted(["data/b", "data.x", "data/a/c", "data/a.c", "_job/plan.json", "_job/tmpx", "data2/a"])
    assert [file.name for file in store.list("data/")] == ["data/a.c", "data/a/c", "data/b"]
    assert [file.name for file in store.list("data/a")] == ["data/a.c", "data/a/c"]
    [found] = store.list("data/b")
    assert found == StoredFile("data/b", 6, (store.root / "data/b").stat().st_mtime)


def test_committed_files_can_be_read_by_whom_the_umask_admits(store: LocalStore) -> None:
    before = os.umask(0o022)
    try:
        store.put_if_absent("a", b"")
    finally:
        os.umask(before)
    assert (store.root / "a").stat().st_mode & 0o777 == 0o644


def test_a_store_crosses_process_borders(store: LocalStore) -> None:
    assert pickle.loads(pickle.dumps(store)).root == store.root


def test_of_many_threads_one_wins_and_its_content_is_whole(store: LocalStore) -> None:
    start = threading.Barrier(16)

    def put(number: int) -> bool:
        start.wait()
        return store.put_if_absent("data/a", bytes([number]) * 100_000)

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(put, range(16)))
    assert won.count(True) == 1
    assert store.get("data/a") == bytes([won.index(True)]) * 100_000
    assert temporaries(store) == []


def test_of_many_processes_one_wins_and_its_content_is_whole(store: LocalStore) -> None:
    code = f"""
import sys
from pipeline.store.local import LocalStore
store = LocalStore({str(store.root)!r})
sys.stdin.readline()
print([n for n in range(20) if store.put_if_absent(f"data/{{n}}", sys.argv[1].encode() * 50_000)])
"""
    racers = [
        subprocess.Popen([sys.executable, "-c", code, str(i)], cwd=REPOSITORY, stdin=-1, stdout=-1, text=True)
        for i in range(4)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = {i: eval(racer.communicate()[0]) for i, racer in enumerate(racers)}
    assert sorted(n for names in won.values() for n in names) == list(range(20))
    for i, names in won.items():
        assert all(store.get(f"data/{n}") == str(i).encode() * 50_000 for n in names)


NAMED = "LocalStore._link_nameless = lambda *a: None\n"
"""As on a file system that has no files without a name."""


@pytest.mark.parametrize("named", [False, True])
def test_killed_before_the_link_leaves_nothing_under_the_final_name(store: LocalStore, named: bool) -> None:
    kill = "os.link = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\nstore.put_if_absent('data/a', b'lost')"
    assert run(store, NAMED * named + kill).returncode == -signal.SIGKILL
    assert list(store.list()) == []
    assert len(temporaries(store)) == named
    assert store.put_if_absent("data/a", b"again")
    assert store.sweep(3600) == named, "its process is gone"
    assert temporaries(store) == []
    assert store.get("data/a") == b"again"


@pytest.mark.parametrize("named", [False, True])
def test_killed_after_the_link_counts_as_committed(store: LocalStore, named: bool) -> None:
    kill = (
        "link = os.link\n"
        "os.link = lambda *a, **k: (link(*a, **k), os.kill(os.getpid(), signal.SIGKILL))\n"
        "store.put_if_absent('data/a', b'kept')"
    )
    assert run(store, NAMED * named + kill).returncode == -signal.SIGKILL
    assert not store.put_if_absent("data/a", b"again")
    assert store.get("data/a") == b"kept"
    assert store.sweep(3600) == named
    assert store.get("data/a") == b"kept"


def test_temporaries_of_others_stay_until_they_are_old(store: LocalStore) -> None:
    store.put("a", b"")
    mine, elsewhere = f"{me()}.0", "0123456789abcdef-1-1.0"
    for name in (mine, elsewhere, "of-an-older-version"):
        (store.root / "_job" / "tmp" / name).touch()
    assert store.sweep(3600) == 0
    assert store.sweep(-1) == 3


def test_killed_in_the_middle_of_a_replacement_leaves_the_old_content(store: LocalStore) -> None:
    store.put("a", b"old")
    run(store, "os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL); store.put('a', b'new')")
    assert store.get("a") == b"old"


@pytest.mark.parametrize("named", [False, True])
def test_a_link_that_nfs_applied_and_then_denied_counts_as_won(
    store: LocalStore, monkeypatch: Any, named: bool
) -> None:
    link = os.link

    def twice(*what: Any, **how: Any) -> None:
        link(*what, **how)
        link(*what, **how)

    if named:
        monkeypatch.setattr(LocalStore, "_link_nameless", lambda *_: None)
    monkeypatch.setattr(os, "link", twice)
    assert store.put_if_absent("a", b"mine")


@pytest.mark.parametrize("named", [False, True])
def test_fault_30_content_and_folders_are_synced_before_and_after_the_link(
    store: LocalStore, monkeypatch: Any, named: bool
) -> None:
    calls: list[str] = []
    link, fsync = os.link, os.fsync

    def named_fsync(handle: int) -> None:
        folder = Path(f"/proc/self/fd/{handle}").is_dir()
        name = Path(f"/proc/self/fd/{handle}").readlink().name
        calls.append(f"fsync {name.partition('-')[0] if folder else 'the file'}")
        fsync(handle)

    def named_link(*what: Any, **how: Any) -> None:
        calls.append("link")
        link(*what, **how)

    if named:
        monkeypatch.setattr(LocalStore, "_link_nameless", lambda *_: None)
    monkeypatch.setattr(os, "fsync", named_fsync)
    monkeypatch.setattr(os, "link", named_link)
    store.put_if_absent("data/a", b"x")
    assert calls.index("fsync the file") < calls.index("link") < len(calls) - 1
    assert calls[-1] == "fsync data"
    # Each new folder is durable in the one that holds it: out in tmp_path, data (and _job) in out, tmp in _job.
    folders = {f"fsync {store.root.parent.name.partition('-')[0]}", "fsync out", *(["fsync _job"] if named else [])}
    assert folders <= set(calls)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("place", ["open", "write", "fsync", "link", "mkdir"])
def test_a_full_disk_leaves_neither_file_nor_temporary(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, place: str, number: int
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    class FullFile(io.BytesIO):
        write = full

    if place == "write":
        fdopen = os.fdopen

        def full_file(handle: int, mode: str) -> FullFile:
            fdopen(handle, mode).close()
            return FullFile()

        monkeypatch.setattr(os, "fdopen", full_file)
    elif place == "mkdir":
        monkeypatch.setattr(Path, "mkdir", full)
    else:
        monkeypatch.setattr(os, place, full)
    with pytest.raises(StorageFull, match=rf"data/a \(5 bytes\) in {store.root}") as caught:
        store.put_if_absent("data/a", b"12345")
    assert caught.value.exit_code == 75
    monkeypatch.undo()
    assert [*store.list(), *temporaries(store)] == []
    assert store.put_if_absent("data/a", b"12345")


def test_a_real_limit_on_file_size_is_reported_as_full(store: LocalStore) -> None:
    code = """
import resource
from pipeline.errors import StorageFull
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    store.put_if_absent("data/a", bytes(5000))
except StorageFull:
    raise SystemExit(75)
"""
    assert run(store, code).returncode == 75
    assert [*store.list(), *temporaries(store)] == []


def test_a_file_system_without_hard_links_is_refused(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, says in (
        (errno.EPERM, "without hard links"),
        (errno.ENOTSUP, "without hard links"),
        (errno.EXDEV, "another file"),
    ):

        def refuse(*_: Any, number: int = number, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "link", refuse)
        with pytest.raises(PlanRefused, match=says):
            store.put_if_absent("a", b"")
        assert [*store.list(), *temporaries(store)] == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_refused_permissions_are_one_line(store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), "somewhere")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PlanRefused, match=f"cannot be used: a: {os.strerror(number)}") as caught:
        store.put_if_absent("a", b"")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PlanRefused, match="Permission denied"):
        LocalStore(tmp_path / "out").put_if_absent("a", b"")


def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    store = LocalStore(tmp_path / "out")
    for operation in (
        lambda: store.put_if_absent("a", b""),
        lambda: store.put("data/a", b""),
        lambda: store.get("a"),
        lambda: list(store.list()),
        lambda: store.delete("a"),
    ):
        with pytest.raises(PlanRefused, match="cannot be used"):
            operation()


def test_other_errors_of_the_system_pass_through(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        store.put_if_absent("a", b"")
    assert temporaries(store) == []


def test_a_file_system_that_cannot_sync_folders_is_accepted(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def partial(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir():
            raise OSError(errno.EINVAL, "no")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", partial)
    assert store.put_if_absent("a", b"")
