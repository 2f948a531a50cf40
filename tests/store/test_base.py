"""Names, and which store serves which path."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PlanRefused
from pipeline.store.base import Store, checked_name, open_store
from pipeline.store.local import LocalStore


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "..", "a/../b", "./a", "a//b", "a/", "/", "a/.", "a\\b", "a\nb", "a\0b"]
)
def test_a_name_that_could_leave_the_store_is_refused(name: str, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "out")
    for operation in (store.get, store.delete, store.size, store.open, lambda n: store.put(n, b"")):
        with pytest.raises(ValueError, match="relative name"):
            operation(name)
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=20))
def test_an_accepted_name_stays_below_the_root(name: str) -> None:
    try:
        checked_name(name)
    except ValueError:
        return
    root = Path("/some/folder")
    assert root in root.joinpath(*name.split("/")).parents


@pytest.mark.parametrize("form", ["{}", "file://{}", "FILE://{}", "file://localhost{}"])
def test_paths_and_file_uris_open_a_local_store(form: str, tmp_path: Path) -> None:
    store: Store = open_store(form.format(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    store.put("a", b"1")
    assert (tmp_path / "new" / "a").read_bytes() == b"1"


def test_a_relative_path_is_fixed_when_the_store_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("out")
    monkeypatch.chdir("/")
    store.put("a", b"1")
    assert (tmp_path / "out" / "a").exists()


def test_a_file_uri_is_percent_decoded_and_a_plain_path_is_not(tmp_path: Path) -> None:
    open_store(f"file://{tmp_path}/a%20b").put("x", b"")
    open_store(f"{tmp_path}/c%20d").put("x", b"")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a b", "c%20d"]


def test_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(PlanRefused, match=r"output\.path='~nobody-of-this-name/x': .*home"):
        open_store("~nobody-of-this-name/x")


@pytest.mark.parametrize("path", ["ftp://host/x", "hf://datasets/x", "file://server/x", "file://", "", " ", "a\0b"])
def test_any_other_path_is_refused_in_one_line(path: str) -> None:
    with pytest.raises(
        PlanRefused, match=r"output\.path=.*: must be a directory, or a URI that begins with file://, s3://"
    ) as caught:
        open_store(path)
    assert "\n" not in str(caught.value)


def test_a_user_who_is_not_there_has_no_folder() -> None:
    with pytest.raises(PlanRefused, match="a='~nobody-of-that-name/out': there is no such user"):
        open_store("~nobody-of-that-name/out", key="a")
