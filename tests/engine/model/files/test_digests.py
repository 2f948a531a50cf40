"""A digest is remembered as long as a file is surely the same; `hashlib` over the whole file is the truth."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.engine.model.files import digests as module
from pipeline.engine.model.files.digests import digests
from pipeline.stages import now_doing
from pipeline.user_cache import VARIABLE

LARGE = b"weights" * (1 << 18)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "digests.json"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read."""
    files: list[Path] = []
    sha256 = module._Count.sha256

    def noted(self: module._Count, path: Path) -> str:
        files.append(path)
        return sha256(self, path)

    monkeypatch.setattr(module._Count, "sha256", noted)
    return files


def aged(path: Path, data: bytes = LARGE) -> Path:
    """A file that was written long ago, as far as its times can be set: its change time is what the clock says."""
    path.write_bytes(data)
    os.utime(path, (1e9, 1e9))
    return path


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute after everything was written."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 60 * 10**9)


def truth(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.usefixtures("later")
def test_a_file_is_read_once(tmp_path: Path, cache: Path, read: list[Path]) -> None:
    files = [aged(tmp_path / "a"), aged(tmp_path / "b", LARGE[1:]), aged(tmp_path / "small", b"{}")]
    want = [truth(path) for path in files]
    assert digests(files) == want and read == files
    read.clear()
    assert digests(files) == want and read == [files[2]], "what is small is read again"
    read.clear()
    assert digests(files, fresh=True) == want and read == files
    assert cache.stat().st_mode & 0o077 == 0


def rewritten(path: Path) -> None:
    path.write_bytes(LARGE[::-1])


def in_place(path: Path) -> None:
    facts = path.stat()
    with path.open("r+b") as file:
        file.write(b"W")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # as rsync and tar do


def replaced(path: Path) -> None:
    other = aged(path.with_name("other"), LARGE[::-1])
    facts = path.stat()
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    other.replace(path)


@pytest.mark.usefixtures("later", "cache")
@pytest.mark.parametrize("change", [rewritten, in_place, replaced])
def test_a_change_of_the_same_size_is_seen(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = aged(tmp_path / "model.safetensors")
    digests([path])
    change(path)
    assert digests([path]) == [truth(path)]


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, cache: Path) -> None:
    """It may change again within the same tick of the file system's clock."""
    digests([aged(tmp_path / "model.safetensors")])
    assert not cache.exists()


@pytest.mark.usefixtures("later")
def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sha256 = aged(tmp_path / "model.safetensors"), module._Count.sha256

    def changed(self: module._Count, path: Path) -> str:
        found = sha256(self, path)
        in_place(path)
        return found

    monkeypatch.setattr(module._Count, "sha256", changed)
    digests([path])
    assert not cache.exists()


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("entry", [1, None, "", "abc", ["x"], {}, "Z" * 64])
def test_what_is_no_digest_is_not_believed(tmp_path: Path, cache: Path, entry: object) -> None:
    path = aged(tmp_path / "model.safetensors")
    digests([path])
    (key,) = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: entry}))
    assert digests([path]) == [truth(path)]


@pytest.mark.usefixtures("later")
def test_only_the_last_state_of_a_file_and_so_many_files_are_kept(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST", 3)
    for change in range(3):
        digests([aged(tmp_path / "a", LARGE + bytes([change]))])
    assert len(json.loads(cache.read_text())) == 1
    digests([aged(tmp_path / f"{number}") for number in range(5)])
    assert [Path(key.partition("\0")[0]).name for key in json.loads(cache.read_text())] == ["2", "3", "4"]


def test_how_far_it_is_can_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    sha256 = module._Count.sha256

    def watched(self: module._Count, path: Path) -> str:
        found = sha256(self, path)
        told.append(now_doing())
        return found

    monkeypatch.setattr(module._Count, "sha256", watched)
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(300_000_000)
    assert digests([path]) == [truth(path)] and told == ["hashing the model's files, 0.3 of 0.3 GB"]
