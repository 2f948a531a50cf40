from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather, orc

from pipeline.errors import InputRefused
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.foreign import conversion, import_command
from pipeline.prompts.files.listing import open_source

ROWS = [{"prompt": "a b", "n": 1}, {"prompt": "c", "n": 2}]


@pytest.mark.parametrize("name", ["x.feather", "x.orc", "a 'b' $c \"d\".orc"])
def test_the_command_that_is_shown_makes_prompts_of_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write = feather.write_feather if name.endswith(".feather") else orc.write_table
    write(pa.Table.from_pylist(ROWS), name)
    with pytest.raises(InputRefused) as refused:
        open_source(SourceConfig(path=name))
    command = str(refused.value).partition("convert it once with ")[2]
    _, *words = shlex.split(command)
    subprocess.run([sys.executable, *words], check=True)
    assert pq.read_table(Path(name).with_suffix(".parquet")).to_pylist() == ROWS


def test_a_folder_without_parquet_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(
        InputRefused,
        match=r"no Parquet files .*, but 1 other, such as a.jsonl; prompts are read from Parquet: promptmill import",
    ):
        open_source(SourceConfig(path=str(tmp_path)))


def test_a_folder_of_more_than_such_files_is_imported_as_far_as_it_can_be(tmp_path: Path) -> None:
    for name in ("LICENSE", "b.csv.gz", "notes.md"):
        (tmp_path / name).touch()
    with pytest.raises(
        InputRefused, match=rf"but 3 other, such as b.csv.gz; .* promptmill import {tmp_path} {tmp_path}.parquet"
    ):
        open_source(SourceConfig(path=str(tmp_path)))


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("x.jsonl", "promptmill import x.jsonl x.parquet"),
        ("in/x.json.gz", "promptmill import in/x.json.gz in/x.parquet"),
        ("s3://bucket/in/x.csv", "promptmill import s3://bucket/in/x.csv x.parquet"),
        ("in/*.jsonl", "promptmill import 'in/*.jsonl' prompts.parquet"),
        ("a b.txt", "promptmill import 'a b.txt' 'a b.parquet'"),
    ],
)
def test_the_command(path: str, command: str) -> None:
    assert import_command(path) == command


def test_a_name_that_tells_nothing() -> None:
    assert conversion("prompts") == conversion("a.parquet") == ""
    assert "CONTRIBUTING.md" in conversion("a.xlsx")
