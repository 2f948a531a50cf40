"""A recipe is a file and a line, its job a module and a yaml: one that only counts tokens runs, and is verified."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.small_runs import REPOSITORY, copy_of_the_code, promptmill

RECIPE = '''"""The recipe of `count`: how many tokens a prompt has, and how many of them are different."""

import pyarrow as pa

from pipeline.output.schema import with_kept

_COLUMNS = {
    "row_id": pa.string(),
    "sample_index": pa.int32(),
    "prompt_tokens": pa.int32(),
    "different": pa.int32(),
    "error_code": pa.string(),
    "error_message": pa.string(),
}


class Count:
    title = "Numbers of tokens"
    meanings = {"prompt_tokens": "tokens of the prompt", "different": "how many of them are different"}
    samples = 1

    def __init__(self, options):
        pass

    def requests(self, row):
        return []

    def schema(self, kept):
        return with_kept(_COLUMNS, kept)

    def table(self, schema, rows, completions, kept):
        made = [
            {
                "row_id": row.row_id, "sample_index": 0, "prompt_tokens": row.prompt_tokens,
                "different": None if row.error else len(set(row.prompt_token_ids)),
                "error_code": row.error and row.error.code.value, "error_message": row.error and row.error.message,
            }
            for row in rows
        ]
        columns = [kept[n] if n in kept.column_names else [row[n] for row in made] for n in schema.names]
        return pa.table(columns, schema=schema)
'''
JOB = '''"""`promptmill count`: how many tokens prompts have."""

from jobs.spec import JobSpec
from pipeline.work.config import GenerateConfig


def run(config, config_yaml):
    from pipeline.run.driver import run_job

    return run_job(config, config_yaml=config_yaml, recipe="count").exit_code


JOB = JobSpec(name="count", summary="prompts in Parquet → their numbers of tokens", schema=GenerateConfig, run=run)
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with the recipe, its line, its job and its yaml, and an input of five rows."""
    folder = copy_of_the_code(tmp_path_factory.mktemp("project"), "examples")
    (folder / "pipeline" / "work" / "count.py").write_text(RECIPE)
    registry = folder / "pipeline" / "work" / "recipe.py"
    line = '"generate": "pipeline.work.generate:Generate"'
    assert line in registry.read_text()
    registry.write_text(registry.read_text().replace(line, f'{line}, "count": "pipeline.work.count:Count"'))
    (folder / "jobs" / "count.py").write_text(JOB)
    (folder / "conf" / "count.yaml").write_text((REPOSITORY / "conf" / "generate.yaml").read_text())
    pq.write_table(
        pa.table({"prompt": ["one", "a a a a", None, "", "two"], "n": [1, 2, 3, 4, 5]}), folder / "in.parquet"
    )
    return folder


def test_a_whole_job_runs_with_it(project: Path) -> None:
    words = ["count", "model=demo", "cluster=inline", "source.path=in.parquet", "source.keep_columns=[n]", "output.path=out",
             "output.rows_per_shard=2", "source.on_empty_prompt=error"]  # fmt: skip
    done = promptmill(project, *words)
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(project / "out" / "data").to_pylist()
    assert [row["n"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["error_code"] for row in rows] == [None, None, "NULL_PROMPT", "EMPTY_PROMPT", None]
    assert rows[1]["prompt_tokens"] > rows[1]["different"] > 0
    assert "# Numbers of tokens" in (project / "out" / "README.md").read_text()
    manifest = json.loads((project / "out" / "_job" / "manifest.json").read_text())
    assert manifest["totals"]["errors"] == {"EMPTY_PROMPT": 1, "NULL_PROMPT": 1}
    assert "nothing to do" in promptmill(project, *words).stderr


def test_verify_follows_it(project: Path) -> None:
    verified = promptmill(project, "verify", "output.path=out", "replay=5")
    assert (verified.returncode, verified.stdout) == (
        0,
        "replay: 5 of 5 output rows are the same, bit for bit\ncomplete and intact: 3 parts, 5 input rows, 5 output rows\n",
    ), verified.stderr
    part = sorted((project / "out" / "data").iterdir())[0]
    table = pq.read_table(part)
    metadata = pq.read_schema(part).metadata
    changed = table.set_column(3, "prompt_tokens", pa.array([0, 4], pa.int32())).replace_schema_metadata(metadata)
    pq.write_table(changed, part)
    wrong = promptmill(project, "verify", "output.path=out")
    assert wrong.returncode == 4
    assert "prompt_tokens is 0" in wrong.stdout


def test_its_own_names_are_refused_as_kept_columns(project: Path) -> None:
    pq.write_table(pa.table({"prompt": ["one"], "different": [1]}), project / "taken.parquet")
    done = promptmill(project, "count", "model=demo", "cluster=inline", "source.path=taken.parquet", "output.path=taken",
                      "source.keep_columns=[different]")  # fmt: skip
    assert done.returncode == 2
    assert "kept column 'different' has the name of an output column" in done.stderr
