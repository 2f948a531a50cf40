from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pyarrow import fs

from pipeline.errors import InputRefused
from pipeline.prompts.files.locate import FoundFile, filesystem_for, find_files

Write = Callable[..., Path]


def found(path: object) -> list[FoundFile]:
    filesystem, inner = filesystem_for(str(path))
    return find_files(filesystem, inner, str(path))


def names(path: object) -> list[str]:
    return [f.name for f in found(path)]


@pytest.fixture
def tree(write: Write, tmp_path: Path) -> Path:
    for name in ("b.parquet", "a.pq", "deep/er/c.PARQUET", "deep/d.parquet", "lang=de/e.parquet", "_k=1/f.parquet"):
        write(name)
    for name in ("_job/x.parquet", ".hidden/x.parquet", "_SUCCESS.parquet", ".x.parquet", "deep/_tmp/0/x.parquet"):
        write(name)
    (tmp_path / "readme.md").write_text("no data")
    return tmp_path


def test_a_directory_is_its_parquet_files_sorted_without_hidden_ones(tree: Path) -> None:
    everything = ["_k=1/f.parquet", "a.pq", "b.parquet", "deep/d.parquet", "deep/er/c.PARQUET", "lang=de/e.parquet"]
    assert names(tree) == names(f"{tree}/") == names(f"file://{tree}") == names(f"{tree}/**") == everything


def test_a_relative_path_and_home_are_made_absolute(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    monkeypatch.setenv("HOME", str(tree))
    assert [f.path for f in found("deep/d.parquet")] == [f"{tree}/deep/d.parquet"]
    assert names("~/deep") == ["d.parquet", "er/c.PARQUET"]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*.parquet", ["b.parquet"]),
        ("?.p[pq]*", ["a.pq"]),
        ("[!a].*", ["b.parquet"]),
        ("**/*.parquet", ["_k=1/f.parquet", "b.parquet", "deep/d.parquet", "lang=de/e.parquet"]),
        ("deep/**/c.*", ["er/c.PARQUET"]),
        ("lang=*", ["lang=de/e.parquet"]),
        ("d*p/er/*", ["deep/er/c.PARQUET"]),
        ("readme.*", ["readme.md"]),
    ],
)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_globs_in_paths_and_uris(tree: Path, glob: str, expected: list[str], scheme: str) -> None:
    assert names(f"{scheme}{tree}/{glob}") == expected


def test_globs_agree_with_pathlib(tree: Path) -> None:
    for pattern in ("*/*.parquet", "deep/*.p*", "**/er/*", "l*/**/*.parquet"):
        oracle = {p for p in tree.glob(pattern) if p.is_file()}
        oracle = {p for p in oracle if not any(s[0] in "._" and "=" not in s for s in p.relative_to(tree).parts)}
        assert {Path(f.path) for f in found(tree / pattern)} == oracle


def test_a_file_whose_name_looks_like_a_glob(write: Write, tmp_path: Path) -> None:
    write("part[1].parquet")
    write("with blank?.parquet")
    assert names(tmp_path / "part[1].parquet") == ["part[1].parquet"]
    assert names(f"file://{tmp_path}/with blank?.parquet") == ["with blank?.parquet"]


def test_hive_partitions_are_decoded_and_the_default_is_null(write: Write, tmp_path: Path) -> None:
    write("lang=de/day=2024%2F01/x.parquet")
    write("lang=__HIVE_DEFAULT_PARTITION__/day=/x.parquet")
    default, named = found(tmp_path)
    assert (named.keys, named.partitions) == (("lang", "day"), {"lang": "de", "day": "2024/01"})
    assert (default.keys, default.partitions) == (("lang", "day"), {"day": ""})
    assert found(f"{tmp_path}/lang=d*/**")[0].partitions == named.partitions
    assert found(f"{tmp_path}/lang=de")[0].partitions == {"day": "2024/01"}


def test_a_uri_keeps_its_options_and_wildcards() -> None:
    filesystem, path = filesystem_for("s3://bucket/a b/part-?.parquet?region=eu-west-1&scheme=http")
    assert path == "bucket/a b/part-?.parquet"
    assert isinstance(filesystem, fs.S3FileSystem)
    assert filesystem.region == "eu-west-1"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", "no such file or directory"),
        ("*.nope", "no file matches this pattern"),
        ("empty", "no Parquet files"),
    ],
)
def test_nothing_found_is_refused(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputRefused, match=message) as refused:
        found(tmp_path / path)
    assert str(tmp_path / path) in str(refused.value)


@pytest.mark.parametrize("uri", ["nope://x/y", "file://relative", "s3://key:secret@/x"])
def test_a_bad_uri_is_refused_in_one_line(uri: str) -> None:
    with pytest.raises(InputRefused) as refused:
        found(uri)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("folder", "kind"), [("_delta_log", "Delta"), (".hoodie", "Hudi")])
def test_a_table_with_rows_of_earlier_versions_is_refused(folder: str, kind: str, write: Write, tmp_path: Path) -> None:
    write("in/a.parquet")
    (tmp_path / "in" / folder).mkdir()
    for path in ("in", "i?", "in/**"):
        with pytest.raises(InputRefused, match=rf"in: is a {kind} table, .* name the files with a glob"):
            found(tmp_path / path)
    assert names(tmp_path / "in/*.parquet") == ["a.parquet"]


def test_the_home_of_nobody_is_refused() -> None:
    with pytest.raises(InputRefused, match=r"source\.path='~nobody-of-this-name/x': .*home"):
        found("~nobody-of-this-name/x")


def test_a_folder_that_may_not_be_listed_is_refused() -> None:
    class Denied:
        def get_file_info(self, _: object) -> object:
            raise PermissionError("[Errno 13] denied")

    with pytest.raises(InputRefused, match="permission denied"):
        find_files(Denied(), "/x", "/x")  # type: ignore[arg-type]
