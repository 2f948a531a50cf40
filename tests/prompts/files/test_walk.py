"""Folders with links, pipes and names that are not UTF-8."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import InputRefused
from pipeline.prompts.files.locate import filesystem_for, find_files

Write = Callable[..., Path]


def names(path: object) -> list[str]:
    filesystem, inner = filesystem_for(str(path))
    return [file.name for file in find_files(filesystem, inner, "in")]


@pytest.fixture
def folder(write: Write, tmp_path: Path) -> Path:
    write("in/a.parquet")
    write("in/real/b.parquet")
    return tmp_path / "in"


@pytest.mark.parametrize("pattern", ["", "/**", "/**/*.parquet"])
def test_links_back_are_not_followed(folder: Path, pattern: str) -> None:
    (folder / "loop").symlink_to(folder)
    (folder / "real" / "up").symlink_to(folder)
    (folder / "real" / "above").symlink_to(folder.parent)
    assert names(f"{folder}{pattern}") == ["a.parquet", "real/b.parquet"]


def test_a_folder_that_a_link_leads_to_is_read_once_and_under_its_own_path(folder: Path, write: Write) -> None:
    elsewhere = write("elsewhere/c.parquet").parent
    (folder / "also").symlink_to(folder / "real")
    (folder / "out").symlink_to(elsewhere)
    (folder / "out2").symlink_to(elsewhere)
    assert names(folder) == ["a.parquet", "out/c.parquet", "real/b.parquet"]


def test_a_linked_file_is_a_file(folder: Path) -> None:
    (folder / "c.parquet").symlink_to(folder / "a.parquet")
    assert names(folder) == ["a.parquet", "c.parquet", "real/b.parquet"]


@pytest.mark.parametrize("name", ["x.parquet", "mount"])
@pytest.mark.parametrize("pattern", ["", "/*", "/**"])
def test_a_link_to_nothing_is_named(folder: Path, name: str, pattern: str) -> None:
    (folder / name).symlink_to("/not/mounted")
    with pytest.raises(InputRefused, match=rf"{name}: a link to /not/mounted, which is not there"):
        names(f"{folder}{pattern}")


def test_a_link_to_nothing_that_is_no_parquet_file_is_passed_over(folder: Path) -> None:
    (folder / "notes.txt").symlink_to("/not/there")
    assert names(folder) == ["a.parquet", "real/b.parquet"]


def test_a_pipe_is_named(folder: Path) -> None:
    os.mkfifo(folder / "p.parquet")
    with pytest.raises(InputRefused, match=r"p\.parquet: neither a file nor a folder"):
        names(folder)


def odd(folder: Path, name: bytes) -> None:
    try:
        (folder / os.fsdecode(name)).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 only")


@pytest.mark.parametrize("pattern", ["", "/*.parquet", "/**"])
def test_other_files_may_have_any_name(folder: Path, pattern: str) -> None:
    odd(folder, b"caf\xe9.txt")
    assert "a.parquet" in names(f"{folder}{pattern}")


@pytest.mark.parametrize("pattern", ["", "/*.parquet"])
def test_a_parquet_file_with_a_name_that_is_not_utf_8_is_named(folder: Path, pattern: str) -> None:
    odd(folder, b"caf\xe9.parquet")
    with pytest.raises(InputRefused, match=r"caf.*\.parquet: the file's name is not UTF-8") as refused:
        names(f"{folder}{pattern}")
    str(refused.value).encode()
