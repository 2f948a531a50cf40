"""Several runs of one command: which of them share a place, and which may not."""

from __future__ import annotations

import re
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main
from jobs.options.arguments import Arguments
from jobs.options.compose import compose_runs
from jobs.spec import specs

PATHS = ["source.path=in.parquet", "output.path=out"]


@pytest.mark.parametrize(
    ("job", "key", "arguments"),
    [
        ("score", "results", ["score.stride=16,32", *PATHS]),
        ("diff", "html", ["a=one,other", "b=third"]),
        ("diff", "json", ["a=one,other", "b=third"]),
        ("import", "output.path", ["source.path=a.jsonl,b.jsonl"]),
    ],
)
def test_runs_that_would_overwrite_a_file_of_each_other(
    job: str, key: str, arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = f"{key}={tmp_path}/all.parquet"
    assert main([job, "-m", *arguments, file]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"promptmill: {file}: several runs of this command would write this file")
    spec = specs()[job]
    instead = re.findall(r"'(.*?)'", line)[-1]
    runs: list[Any] = compose_runs(job, spec.schema, Arguments((*arguments, instead), multirun=True))
    assert [attrgetter(key)(run.config) for run in runs] == [f"{tmp_path}/all-{i}.parquet" for i in range(2)]


@pytest.mark.parametrize(
    ("job", "path", "swept"),
    [
        ("show", "out", "limit=1,2"),
        ("verify", "out", "replay=0,1"),
        ("import", "prompts/", "source.path=a.jsonl,b.jsonl"),
    ],
)
def test_only_what_makes_an_output_has_a_folder_per_run(job: str, path: str, swept: str) -> None:
    words = (f"output.path={path}", swept)
    runs: list[Any] = compose_runs(job, specs()[job].schema, Arguments(words, multirun=True))
    assert [run.config.output.path for run in runs] == [path, path]
