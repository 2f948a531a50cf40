"""Which format a file has, what is one input of several files, and what of the rows is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigurationError, InputRefused, PlanRefused
from pipeline.prompts.imports.config import ImportConfig, ImportOutput, ImportSource
from pipeline.prompts.imports.importing import Imported, import_prompts

Read = Callable[..., list[dict[str, Any]]]
ROWS = [{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
TEXT_ROWS = [{"prompt": "a", "n": "1"}, {"prompt": "b", "n": "2"}]
BATCH = '{"custom_id": "r1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "a"}}\n'


@pytest.mark.parametrize(
    ("name", "data", "rows"),
    [
        ("x.jsonl", LINES, ROWS), ("x.NDJSON", LINES, ROWS), ("x.json", LINES, ROWS), ("x", LINES, ROWS),
        ("x.json", json.dumps(ROWS), ROWS), ("x.jsonl", json.dumps(ROWS, indent=1), ROWS), ("x", json.dumps(ROWS), ROWS),
        ("x.json", json.dumps(ROWS[0], indent=1), ROWS[:1]), ("x", json.dumps(ROWS[0], indent=1), ROWS[:1]),
        ("x.json", "\n\n  " + LINES, ROWS),
        ("x.csv", "prompt,n\na,1\nb,2\n", TEXT_ROWS), ("x.csv", "prompt;n\r\na;1\r\nb;2", TEXT_ROWS),
        ("x.tsv", "prompt\tn\na\t1\nb\t2\n", TEXT_ROWS), ("x.csv", '\ufeffprompt,"n"\na,"1"\n\nb,2', TEXT_ROWS),
        ("x.csv", '"a;b;c",prompt\n0,a\n', [{"a;b;c": "0", "prompt": "a"}]),
        ("x.csv", ",prompt\n0,a\n", [{"column_1": "0", "prompt": "a"}]), ("x.csv", "prompt\n", []),
        ("x.csv", "ORCID,prompt\n0,a\n", [{"ORCID": "0", "prompt": "a"}]),
        ("x.txt", "a, b\n\nc\r\n", [{"prompt": "a, b"}, {"prompt": "c"}]), ("x.txt", "", []),
        ("x.jsonl", BATCH, [{"custom_id": "r1", "prompt": "a", "sampling": None}]),
    ],
)  # fmt: skip
def test_the_format_is_found(name: str, data: str, rows: list[dict[str, Any]], read: Read) -> None:
    assert read(name, data) == rows


@pytest.mark.parametrize(
    ("kind", "data", "rows"),
    [
        ("jsonl", LINES, ROWS), ("json", json.dumps(ROWS), ROWS), ("csv", "prompt,n\na,1\nb,2\n", TEXT_ROWS),
        ("tsv", "prompt\tn\na\t1\nb\t2\n", TEXT_ROWS), ("text", "a\nb\n", [{"prompt": "a"}, {"prompt": "b"}]),
        ("files", "a\nb\n", [{"file": "x.data", "prompt": "a\nb"}]), ("jsonl", BATCH, [json.loads(BATCH)]),
    ],
)  # fmt: skip
def test_the_format_is_given(kind: str, data: str, rows: list[dict[str, Any]], read: Read) -> None:
    assert read("x.data", data, format=kind) == rows


def test_encoding_and_delimiter(read: Read) -> None:
    assert read("x.csv", "prompt|n\ncafé|1\n".encode("cp1252"), source={"encoding": "cp1252"}) == [
        {"prompt": "café", "n": "1"}
    ]
    given = {"encoding": "cp1252", "delimiter": "#"}
    assert read("x.csv", "prompt#n\né,é#1\n".encode("cp1252"), source=given) == [{"prompt": "é,é", "n": "1"}]
    assert read("x.jsonl", '{"prompt": "é"}\n'.encode("latin-1"), source={"encoding": "latin-1"}) == [{"prompt": "é"}]
    with pytest.raises(InputRefused, match=r"x\.txt: line 3: is not ascii: ordinal not in range"):
        read("x.txt", "a\nb\né\n", source={"encoding": "ascii"})


def test_a_folder_a_glob_and_several_files_are_one_input(tmp_path: Path, read: Read) -> None:
    for name in ("b/2.jsonl", "b/1.csv", "a.ndjson", "b/_no.jsonl", "b/no.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("prompt\nof a csv\n" if name.endswith("csv") else json.dumps({"prompt": name}))
    assert [row["prompt"] for row in read("b")] == ["of a csv", "b/2.jsonl"]
    assert [row["prompt"] for row in read("*/*.jsonl")] == ["b/2.jsonl"]
    assert [row["prompt"] for row in read(["b", "a.ndjson"])] == ["of a csv", "b/2.jsonl", "a.ndjson"]
    uri = (tmp_path / "a.ndjson").as_uri()
    assert read(uri) == [{"prompt": "a.ndjson"}]


def test_a_folder_of_text_files_has_a_prompt_in_each(tmp_path: Path, read: Read) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "1.txt").write_bytes(b"Dear Sir,\n\nno.\r\n")
    (tmp_path / "letters" / "2.txt").write_bytes(b"\xef\xbb\xbfyes")
    rows = [{"file": "1.txt", "prompt": "Dear Sir,\n\nno."}, {"file": "2.txt", "prompt": "yes"}]
    assert read("letters") == read("letters/*.txt") == rows
    assert [row["prompt"] for row in read("letters", format="text")] == ["Dear Sir,", "no.", "yes"]
    (tmp_path / "letters" / "3.md").write_text("# three")
    assert [row["file"] for row in read("letters", format="files")] == ["1.txt", "2.txt", "3.md"]
    (tmp_path / "letters" / "4.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputRefused, match=r"letters/4.txt|4.txt: is not UTF-8"):
        read("letters")
    assert len(read("letters", on_bad_line="skip")) == 2


def test_some_columns_and_some_rows(imported: Callable[..., Imported], read: Read) -> None:
    assert read("x.jsonl", LINES, columns=["n"], limit=1) == [{"n": 1}]
    assert read("x.csv", "prompt,n\na,1\nb,2\n", columns=["n", "prompt"]) == [
        {"n": "1", "prompt": "a"},
        {"n": "2", "prompt": "b"},
    ]
    with pytest.raises(InputRefused, match="columns: there is no column 'promt'; did you mean 'prompt'"):
        read("x.jsonl", LINES, columns=["promt"])
    mixed = LINES + '{"prompt": "c", "n": "three"}'
    assert read("x.jsonl", mixed, columns=["prompt"]) == [{"prompt": c} for c in "abc"]


@pytest.mark.parametrize("first", [LINES, "{}\n{}\n"])
def test_a_column_that_only_a_later_file_has(first: str, tmp_path: Path, read: Read) -> None:
    (tmp_path / "a.jsonl").write_text(first)
    (tmp_path / "b.jsonl").write_text('{"x": 3}\n{"x": 4}\n')
    rows = read(["a.jsonl", "b.jsonl"], columns=["x"], row_group_rows=1)
    assert [row["x"] for row in rows] == [None, None, 3, 4]


def test_columns_as_json_text(read: Read) -> None:
    rows: list[dict[str, Any]] = [
        {"a": 1, "x": {"k": [1, "é"]}},
        {"a": 2, "x": "text"},
        {"a": 3, "x": None},
        {"a": 4, "x": 2**53 + 1},
        {"x": 0.5},
    ]
    found = read("x.jsonl", "\n".join(map(json.dumps, rows)), json_columns=["x"])
    assert [row["x"] and json.loads(row["x"]) for row in found] == [row["x"] for row in rows]
    assert [row["a"] for row in found] == [1, 2, 3, 4, None]
    assert read("x.json", json.dumps(rows), json_columns=["x"]) == found


def test_row_groups(imported: Callable[..., Imported]) -> None:
    made = imported("x.txt", "\n".join(map(str, range(250_000))))
    metadata = pq.read_metadata(made.path)
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [100_000, 100_000, 50_000]
    assert (made.rows, made.groups, made.size) == (250_000, 3, made.path.stat().st_size)
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    made = imported("x.txt", "\n".join(["x" * 100_000] * 1000))
    metadata = pq.read_metadata(made.path)
    assert all(metadata.row_group(i).num_rows <= 500 for i in range(metadata.num_row_groups)), "32 MiB, and a chunk"


@pytest.mark.parametrize("target", ["out.parquet", "new/er/out.parquet", "a folder/"])
def test_the_target(target: str, tmp_path: Path, imported: Callable[..., Imported]) -> None:
    made = imported("x.jsonl", LINES, target=target)
    assert made.path == tmp_path / (target if target.endswith("t") else "a folder/x.parquet")
    assert pq.read_table(made.path).to_pylist() == ROWS


def test_a_target_that_is_there_is_not_touched(tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.parquet").write_text("mine")
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # of the fixture
    with pytest.raises(PlanRefused, match=r"mine\.parquet: already exists; remove it, or give another name"):
        read("x.jsonl", LINES, target="mine.parquet")
    assert (tmp_path / "mine.parquet").read_text() == "mine"
    with pytest.raises(ConfigurationError, match=r"must be a Parquet file, such as out\.parquet, or a folder"):
        read("x.jsonl", LINES, target="out.json")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("nowhere.jsonl", "there is no such file or directory"), ("*.jsonl", "no file matches"), (".", "no files that can be"),
        ("nope://x/y", "nope"), ("/dev/null", "there is no such file"),
    ],
)  # fmt: skip
def test_nothing_to_read(path: str, told: str, read: Read) -> None:
    with pytest.raises(InputRefused, match=told):
        read(path)


def test_a_folder_that_was_made_is_gone_after_a_refusal(tmp_path: Path, read: Read) -> None:
    with pytest.raises(InputRefused, match="line 1: is not JSON"):
        read("x.jsonl", "no", target="new/er/out.parquet", format="jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputRefused, match="line 1: is not JSON"):
        read("x.jsonl", "no", target="mine/out.parquet", format="jsonl")
    assert (tmp_path / "mine").is_dir()


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_read(read: Read) -> None:
    with pytest.raises(PlanRefused, match="/proc: nothing can be written there"):
        read("x.jsonl", "no", target="/proc/out.parquet", format="jsonl")
    with pytest.raises(PlanRefused, match=r"x\.jsonl/y cannot be made: Not a directory"):
        read("x.jsonl", "no", target="x.jsonl/y/out.parquet", format="jsonl")


@pytest.mark.parametrize(
    ("target", "told"), [("x" * 300 + ".parquet", "File name too long"), ("~nobody-of-this-name/x.parquet", "home")]
)
def test_a_target_that_cannot_be_is_told(target: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(LINES)
    source, output = ImportSource(path=str(tmp_path / "x.jsonl")), ImportOutput(path=target)
    with pytest.raises(PlanRefused, match=rf"^output\.path=.*: .*{told}"):
        import_prompts(ImportConfig(source=source, output=output))


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("x.jsonl", LINES + json.dumps({"prompt": "y" * 200_000}), "x.jsonl: line 3: is longer than 0 MiB; if this is one"),
        ("x.json", '[{"prompt": "a"},\n{"prompt": "' + "y" * 200_000, "x.json: line 2: a value of more than 0 MiB begins"),
        ("x.txt", "a\n" + "y" * 200_000, "x.txt: line 2: is longer than 0 MiB"),
    ],
)  # fmt: skip
def test_lines_and_values_without_end(
    name: str, data: str, told: str, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("blocks", "json_values"):
        monkeypatch.setattr(f"pipeline.prompts.imports.readers.{module}.MOST_BYTES", 1000)
        monkeypatch.setattr(f"pipeline.prompts.imports.readers.{module}.CHUNK_BYTES", 100)
        monkeypatch.setattr(f"pipeline.prompts.imports.readers.{module}._READ_BYTES", 100)
    with pytest.raises(InputRefused) as refused:
        read(name, data)
    assert told in str(refused.value)


def test_a_file_that_is_no_prompt(tmp_path: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.prompts.imports.readers.text.MOST_BYTES", 100)
    with pytest.raises(InputRefused, match=r"x\.txt: has more than 0 MiB, which is no prompt"):
        read("x.txt", "y" * 200, format="files")
