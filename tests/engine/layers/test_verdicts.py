"""What the checks found is kept for the next process on the same machine, and nothing that is wrong with the file does harm."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.engine import native
from pipeline.engine.layers import verdicts
from pipeline.engine.layers.verdicts import Verdicts, here, machine
from pipeline.engine.setting import about_processor
from pipeline.user_cache import VARIABLE, cache_file


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    found = cache_file("verdicts.json")
    assert found is not None
    return found


def unasked() -> bool:
    raise AssertionError("it is known")


def taught(answers: dict[str, bool]) -> Path | None:
    known = here()
    for question, answer in answers.items():
        assert known.answer(question, partial(bool, answer)) == answer
        assert known.answer(question, unasked) == answer
    known.keep()
    return cache_file("verdicts.json")


def test_answers_are_there_for_the_next_process(file: Path) -> None:
    taught({"one": True, "two": False})
    assert [here().answer(question, unasked) for question in ("one", "two")] == [True, False]
    assert here().answer("three", lambda: True)
    assert [p.name for p in file.parent.iterdir()] == ["verdicts.json"]
    assert file.stat().st_mode & 0o077 == 0


def test_what_could_not_be_asked_is_no_and_asked_again(file: Path) -> None:
    known = here()
    assert known.answer("one", lambda: None) is False
    assert known.answer("one", lambda: True) is True
    known.keep()
    assert here().answer("one", unasked) is True


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setenv("ATEN_CPU_CAPABILITY", "default"),
        lambda patch: patch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41"),
        lambda patch: patch.setattr(torch, "__version__", "0.0.1"),
        lambda patch: patch.setattr(torch, "get_num_threads", lambda: 77),
        lambda patch: patch.setattr(verdicts, "about_processor", lambda: ["another"]),
        lambda patch: patch.setattr(native, "level", lambda: "another"),
        lambda patch: patch.setattr(native, "digest_of_sources", lambda: "another"),
        lambda patch: patch.setattr(verdicts, "_built", lambda: "another"),
    ],
)
def test_another_machine_or_installation_asks_again(
    file: Path, change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    taught({"one": False})
    before = machine()
    assert machine() == before
    change(monkeypatch)
    assert machine() != before
    assert here().answer("one", lambda: True)


def test_the_processor_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = about_processor()
    assert len(facts) == 13
    if Path("/proc/cpuinfo").exists():
        assert any(facts)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1, 2]", b"\xff\xfe", b"null", b"[" * 100_000, b'{"' + b"x" * (1 << 20) + b'": true}', b"7" * 5000],
    ids=lambda content: repr(content[:9]),
)
def test_a_damaged_file_is_as_none_and_is_replaced(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    assert here().answer("one", lambda: True)
    taught({"one": True})
    assert here().answer("one", unasked)


def test_entries_of_another_kind_are_left_out(file: Path) -> None:
    taught({"one": True})
    (key,) = json.loads(file.read_text())
    others: tuple[object, ...] = (1, "true", None, [], {})
    for other in others:
        file.write_text(json.dumps({key: other, "k" * 300: True}))
        assert here().answer("one", lambda: False) is False
    taught({"two": True})
    assert all(len(key) < 100 for key in json.loads(file.read_text()))


def test_a_file_that_others_may_write_is_not_believed(file: Path) -> None:
    taught({"one": True})
    file.chmod(0o666)
    assert here().answer("one", lambda: False) is False


def test_a_file_of_another_user_is_not_believed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taught({"one": True})
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert here().answer("one", lambda: False) is False


def test_links_pipes_and_folders_are_not_read(file: Path, tmp_path: Path) -> None:
    taught({"one": True})
    elsewhere = tmp_path / "elsewhere.json"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert here().answer("one", lambda: False) is False
    taught({"one": False})
    assert not file.is_symlink() and True in json.loads(elsewhere.read_text()).values(), (
        "the link, not what it leads to"
    )
    file.unlink()
    os.mkfifo(file)
    assert here().answer("one", lambda: True)  # nobody writes into it: to wait would be for ever
    file.unlink()
    file.mkdir()
    taught({"one": True})
    assert [p.name for p in file.parent.iterdir()] == ["verdicts.json"]


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a file").write_text("")
    for folder in (str(tmp_path / "a file"), str(tmp_path / "a file" / "below"), "/proc/nowhere"):
        monkeypatch.setenv(VARIABLE, folder)
        taught({"one": True})
        assert here().answer("one", lambda: False) is False


def test_without_a_folder_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    assert taught({"one": True}) is None
    assert here().answer("one", lambda: False) is False


def test_it_is_in_the_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_file("verdicts.json") == tmp_path / "x" / "promptmill" / "verdicts.json"
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert cache_file("verdicts.json") == tmp_path / ".cache" / "promptmill" / "verdicts.json"
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_file("verdicts.json") is None


def homeless() -> Path:
    raise RuntimeError("no home")


def test_there_is_a_most(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "_MOST", 3)
    for i in range(5):
        taught({f"{i}": True, "again": True})
    assert [key.split()[1] for key in json.loads(file.read_text())] == ["3", "4", "again"]


def test_many_at_once_leave_a_whole_file(file: Path) -> None:
    def write(first: int) -> Iterator[None]:
        for i in range(first, first + 20):
            known = Verdicts(file, "m")
            known.answer(str(i), lambda: True)
            known.keep()
            yield

    threads = [threading.Thread(target=lambda first=first: list(write(first))) for first in (0, 100, 200, 300)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if file.exists():
            assert set(json.loads(file.read_text()).values()) == {True}
    assert set(json.loads(file.read_text()).values()) == {True}
    assert [p.name for p in file.parent.iterdir()] == ["verdicts.json"]
