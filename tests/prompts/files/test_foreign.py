from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputRefused
from pipeline.prompts.config import SourceConfig
from pipeline.prompts.files.foreign import conversion
from pipeline.prompts.files.listing import open_source

ROWS = [{"prompt": "a b", "n": 1}, {"prompt": "c", "n": 2}]
TEXTS = {
    "x.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "x.csv": "prompt,n\na b,1\nc,2\n",
    "x.tsv": "prompt\tn\na b\t1\nc\t2\n",
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_command_that_is_shown_makes_prompts_of_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(TEXTS[name])
    with pytest.raises(InputRefused) as refused:
        open_source(SourceConfig(path=name))
    command = str(refused.value).partition("convert it once with ")[2]
    _, *words = shlex.split(command)
    subprocess.run([sys.executable, *words], check=True)
    assert pq.read_table("x.parquet").to_pylist() == ROWS


def test_a_folder_without_parquet_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(InputRefused, match=r"no Parquet files .*, but 1 other, such as a.jsonl; prompts are read from"):
        open_source(SourceConfig(path=str(tmp_path)))


def test_a_name_that_tells_nothing() -> None:
    assert conversion("prompts") == conversion("a.parquet") == ""
    assert "CONTRIBUTING.md" in conversion("a.xlsx")
