"""A folder that has somebody's files and no plan is not taken; a card that is not ours is not replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PlanRefused
from pipeline.output.card.seal import is_sealed, put_card, sealed
from pipeline.output.foreign import check_vacant
from pipeline.store.local import LocalStore

PART = "data/01234567-00000-of-00002.parquet"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "out")


def test_a_folder_that_is_not_there_or_empty_is_taken(store: LocalStore) -> None:
    check_vacant(store, "out")
    store.root.mkdir()
    check_vacant(store, "out")
    (store.root / "lost+found").mkdir()
    check_vacant(store, "out")


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "data/train.parquet",
        "data/x/y.parquet",
        ".git/config",
        "_job/notes.txt",
        "_job/claims",
        "x",
        "data.parquet",
    ],
)
def test_what_is_there_is_named(store: LocalStore, name: str) -> None:
    store.put(name, b"mine")
    with pytest.raises(PlanRefused, match="is not empty and holds no output of promptmill") as refused:
        check_vacant(store, "out")
    assert name.partition("/")[0] in str(refused.value)
    assert store.get(name) == b"mine"
    store.put("_job/plan.json", b"{}")
    check_vacant(store, "out")


@pytest.mark.parametrize("kind", ["folder", "link to a folder", "link to nowhere", "data is a link", "data is a file"])
def test_what_is_no_file_counts_too(store: LocalStore, tmp_path: Path, kind: str) -> None:
    store.root.mkdir()
    other = tmp_path / "other"
    other.mkdir()
    name = "data" if kind.startswith("data") else "thing"
    place = store.root / name
    if kind == "folder":
        place.mkdir()
    elif kind == "data is a file":
        place.write_bytes(b"mine")
    else:
        place.symlink_to(tmp_path / "nowhere" if kind == "link to nowhere" else other)
    with pytest.raises(PlanRefused, match=name):
        check_vacant(store, "out")


def test_what_is_left_of_an_output_whose_plan_was_lost_is_no_reason(store: LocalStore) -> None:
    for name in (PART, "_job/manifest.json", "_job/events/x.jsonl", "_job/set_aside/1/data/x", "_job/tmp/x"):
        store.put(name, b"ours")
    assert put_card(store, "# Card\n") == "README.md"
    check_vacant(store, "out")


def test_a_readme_that_is_not_ours_stays(store: LocalStore) -> None:
    store.put("README.md", b"mine")
    assert put_card(store, "# Card\n") == "_job/README.md"
    assert store.get("README.md") == b"mine"
    assert is_sealed(store.get("_job/README.md"))


def test_a_card_is_replaced_until_somebody_has_changed_it(store: LocalStore) -> None:
    assert put_card(store, "one\n") == "README.md"
    assert put_card(store, "two\n") == "README.md"
    assert store.get("README.md").startswith(b"two\n")
    store.put("README.md", store.get("README.md").replace(b"two", b"2"))
    assert put_card(store, "three\n") == "_job/README.md"
    assert store.get("README.md").startswith(b"2\n")


@pytest.mark.parametrize("kind", ["folder", "link to nowhere"])
def test_a_readme_that_is_no_file(store: LocalStore, kind: str) -> None:
    store.root.mkdir()
    place = store.root / "README.md"
    place.mkdir() if kind == "folder" else place.symlink_to("nowhere")
    assert put_card(store, "# Card\n") == "_job/README.md"
    assert place.is_dir() or place.is_symlink()


@given(st.text(st.characters(codec="utf-8")), st.binary(max_size=3), st.integers(0, 10_000))
def test_a_seal_holds_for_these_bytes_only(card: str, change: bytes, place: int) -> None:
    data = sealed(card)
    assert is_sealed(data)
    place %= len(data)
    changed = data[:place] + change + data[place + 1 :]
    assert is_sealed(changed) == (changed == data)
