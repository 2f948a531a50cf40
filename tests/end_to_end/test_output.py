"""What a run leaves behind: rows that every reader agrees on, the manifest, the card, the configuration."""

from __future__ import annotations

import collections
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from tests.small_runs import MODEL, generate, manifest, messages, python, read, write

ROWS = 12


OPTIONS = (
    "source.id_column=id", "source.keep_columns=[topic]", "sampling.n=2", "output.rows_per_shard=5",
    "stats.top_logprobs=2", "stats.prompt_logprobs=true",
)  # fmt: skip


@pytest.fixture(scope="module")
def output(reference: Path) -> Path:
    return reference


@pytest.fixture(scope="module")
def wanted(output: Path) -> list[dict[str, Any]]:
    return ordered(read(output).to_pylist())


class TestReaders:
    """Each of them opens the parts with no extra step and sees what Arrow sees."""

    def test_pandas(self, output: Path, wanted: list[dict[str, Any]]) -> None:
        pandas = pytest.importorskip("pandas")
        frame = pandas.read_parquet(output / "data")
        assert ordered(pa.Table.from_pandas(frame, schema=read(output).schema).to_pylist()) == wanted

    def test_polars(self, output: Path, wanted: list[dict[str, Any]]) -> None:
        polars = pytest.importorskip("polars")
        assert ordered(polars.read_parquet(output / "data" / "*.parquet").to_dicts()) == wanted

    def test_duckdb(self, output: Path, wanted: list[dict[str, Any]]) -> None:
        duckdb = pytest.importorskip("duckdb")
        found = duckdb.sql(f"select * from '{output}/data/*.parquet'")
        assert ordered([dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]) == wanted

    @pytest.mark.parametrize("how", ["files", "folder"])
    def test_datasets(
        self, how: str, output: Path, wanted: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        datasets = pytest.importorskip("datasets")
        if how == "files":
            found = datasets.load_dataset(
                "parquet", data_files=str(output / "data" / "*.parquet"), cache_dir=str(tmp_path)
            )
        else:
            found = datasets.load_dataset(str(output), cache_dir=str(tmp_path))
        assert ordered(list(found["train"])) == wanted


def ordered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    plain = [
        {k: list(map(plain_value, v)) if isinstance(v, list) else plain_value(v) for k, v in r.items()} for r in rows
    ]
    return sorted(plain, key=lambda row: (row["row_id"], row["sample_index"]))


def plain_value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def test_one_row_a_prompt_and_sample_in_the_inputs_order(output: Path) -> None:
    names = sorted((output / "data").glob("*.parquet"))
    rows = [row for name in names for row in pq.read_table(name, columns=["row_id", "sample_index"]).to_pylist()]
    assert rows == [{"row_id": f"row-{i:04d}", "sample_index": s} for i in range(ROWS) for s in (0, 1)]


def test_lists_are_aligned_with_the_tokens(output: Path) -> None:
    for row in read(output).to_pylist():
        if row["finish_reason"] == "error":
            assert row["text"] is None and not row["token_ids"]
            continue
        generated = len(row["token_ids"])
        assert generated == row["completion_tokens"] > 0
        for name in ("token_logprobs", "token_entropies", "token_ranks", "top_token_ids", "top_token_logprobs"):
            assert len(row[name]) == generated
        assert all(len(top) == 2 for top in row["top_token_ids"])
        assert len(row["prompt_token_ids"]) == len(row["prompt_token_logprobs"]) == row["prompt_tokens"]
        assert row["prompt_token_logprobs"][0] is None
        assert row["cumulative_logprob"] == pytest.approx(sum(row["token_logprobs"]), rel=1e-6)


def test_the_manifest(output: Path) -> None:
    body = manifest(output)
    assert set(body) == {"plan_id", "promptmill_version", "totals", "timings", "parts", "environment"}
    table = read(output)
    rows = table.to_pylist()
    reasons = [row["finish_reason"] for row in rows]
    lengths = [row["completion_tokens"] for row in rows if row["finish_reason"] != "error"]
    assert body["totals"] == {
        "rows": ROWS,
        "completions": 2 * ROWS,
        "prompt_tokens": sum(row["prompt_tokens"] for row in rows) // 2,
        "completion_tokens": sum(row["completion_tokens"] for row in rows),
        "errors": {"EMPTY_PROMPT": 2, "NULL_PROMPT": 2},
        "finish_reasons": dict(sorted(collections.Counter(reasons).items())),
        "lengths": {"shortest": min(lengths), "longest": max(lengths)},
        "clamped_rows": 0,
        "cut_off": 0,
    }
    assert set(body["timings"]) == {"wall_seconds", "engine_seconds", "tokens_per_second"}
    assert [part["rows"] for part in body["parts"]] == [5, 5, 2]
    plan8 = body["plan_id"][:8]
    for number, part in enumerate(body["parts"]):
        assert part["file"] == f"data/{plan8}-{number:05d}-of-00003.parquet"
        assert hashlib.sha256((output / part["file"]).read_bytes()).hexdigest() == part["sha256"]
    assert {"torch", "processor", "dtype", "threads"} <= set(body["environment"])
    assert json.loads((output / "_job" / "plan.json").read_text())["plan_id"] == body["plan_id"]
    schema = pq.read_schema(output / body["parts"][1]["file"])
    assert schema.metadata[b"promptmill.plan_id"].decode() == body["plan_id"]
    assert schema.metadata[b"promptmill.shard"] == b"1"


def test_the_card(output: Path) -> None:
    card = (output / "README.md").read_text()
    assert card.startswith("---\n")
    assert str(MODEL.name) in card
    assert "data/*.parquet" in card or "data/" in card
    assert f"{ROWS}" in card and f"{2 * ROWS}" in card


def test_only_what_the_contract_names_is_there(output: Path) -> None:
    files = {str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()}
    known = (
        r"data/[0-9a-f]{8}-\d{5}-of-\d{5}\.parquet|README\.md|report\.html|_job/(plan|manifest)\.json|_job/config\.yaml"
    )
    assert [f for f in files if not re.fullmatch(rf"{known}|_job/events/[^/]+\.jsonl", f)] == []


def test_the_configuration_keeps_its_interpolations(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHERE_THE_PROMPTS_ARE", str(source))
    assert generate(Path("${oc.env:WHERE_THE_PROMPTS_ARE}"), tmp_path / "out", "source.limit=1") == 0
    text = (tmp_path / "out" / "_job" / "config.yaml").read_text()
    assert "path: ${oc.env:WHERE_THE_PROMPTS_ARE}" in text
    assert not any(str(source) in p.read_text() for p in (tmp_path / "out" / "_job").glob("config.*"))


class TestAgain:
    """The same command on a finished output, and other commands."""

    def test_the_same_command_has_nothing_to_do(
        self, source: Path, output: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = snapshot(output)
        assert generate(source, output, *OPTIONS) == 0
        assert f"{output} is complete: 12 rows, 24 completions in 3 parts; nothing to do" in capsys.readouterr().err
        assert snapshot(output) == before

    def test_another_plan_is_refused_and_the_keys_are_named(
        self, source: Path, output: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = snapshot(output)
        assert generate(source, output, *OPTIONS, "sampling.seed=9", "stats.top_logprobs=0") == 2
        told = capsys.readouterr().err
        assert "sampling.seed: 0 → 9" in told and "stats.top_logprobs: 2 → 0" in told
        assert "max_tokens" not in told
        assert len(messages(told)) == 1
        assert snapshot(output) == before

    def test_a_changed_input_is_refused_and_named(
        self, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        mine = write(pq.read_table(source).slice(0, 2), tmp_path / "in" / "mine.parquet")
        assert generate(mine, tmp_path / "out", "source.id_column=id") == 0
        write(pq.read_table(source).slice(0, 3), mine)
        assert generate(mine, tmp_path / "out", "source.id_column=id") == 2
        assert "mine.parquet" in capsys.readouterr().err

    def test_speed_options_may_change(self, source: Path, output: Path) -> None:
        assert generate(source, output, *OPTIONS, "engine.max_num_seqs=5", "engine.max_num_batched_tokens=64") == 0

    def test_another_rows_per_shard_is_ignored_with_a_notice(
        self, source: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        copy = tmp_path / "out"
        (copy / "data").mkdir(parents=True)
        (copy / "_job").mkdir()
        (copy / "_job" / "plan.json").write_bytes((output / "_job" / "plan.json").read_bytes())
        first = sorted((output / "data").iterdir())[0]
        (copy / "data" / first.name).write_bytes(first.read_bytes())
        options = [*OPTIONS, "output.rows_per_shard=4"]
        assert generate(source, copy, *options) == 0
        told = capsys.readouterr().err
        assert "begun with output.rows_per_shard=5, which is kept (requested: 4)" in told
        assert "12 rows in 3 parts, 2 to do" in told
        assert manifest(copy)["parts"] == manifest(output)["parts"]

    def test_a_lost_manifest_is_made_again_without_an_engine(self, source: Path, output: Path, tmp_path: Path) -> None:
        before = manifest(output)
        (output / "_job" / "manifest.json").unlink()
        assert generate(source, output, *OPTIONS) == 0
        after = manifest(output)
        assert (after["parts"], after["totals"]) == (before["parts"], before["totals"])

    def test_a_lost_part_is_made_again(self, source: Path, output: Path) -> None:
        before = manifest(output)
        (output / before["parts"][1]["file"]).unlink()
        assert generate(source, output, *OPTIONS) == 0
        assert manifest(output)["parts"] == before["parts"]


def snapshot(output: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in output.rglob("*") if p.is_file()}


def test_no_torch_and_no_ray_where_none_is_needed(source: Path, output: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from jobs.cli import main; code = main(sys.argv[1:]);"
        "print('LOADED', [m for m in ('torch', 'transformers', 'ray') if m in sys.modules]); sys.exit(code)"
    )
    here = [f"model.path={MODEL}", f"source.path={source}", "sampling.max_tokens=8", "output.report=false"]
    for arguments, exit_code in (
        (["generate", "--help"], 0),
        (["generate", *here, f"output.path={output}", "cluster=local", *OPTIONS], 0),
        (["generate", *here, f"output.path={output}", "cluster=local"], 2),
        (["generate", *here, f"output.path={tmp_path}/x", "source.prompt_column=no"], 2),
        (["generate", "model.path=/nowhere", f"source.path={source}", f"output.path={tmp_path}/x"], 2),
    ):
        done = python(code, *arguments)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (exit_code, "LOADED []"), done.stderr
    assert not (tmp_path / "x").exists()


def test_inline_never_imports_ray(source: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from jobs.cli import main; code = main(sys.argv[1:]);"
        "print('LOADED', [m for m in ('torch', 'ray') if m in sys.modules]); sys.exit(code)"
    )
    done = python(code, "generate", f"model.path={MODEL}", f"source.path={source}", f"output.path={tmp_path}/out",
                  "sampling.max_tokens=2", "source.limit=2", "cluster=inline", "output.report=false")  # fmt: skip
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "LOADED ['torch']"), done.stderr
    assert "Warning" not in done.stderr and "Traceback" not in done.stderr


class TestSource:
    """Rows, columns and prompts as they are asked for."""

    def test_limit(self, source: Path, tmp_path: Path) -> None:
        assert generate(source, tmp_path / "out", "source.limit=7", "output.rows_per_shard=3") == 0
        assert [part["rows"] for part in manifest(tmp_path / "out")["parts"]] == [3, 3, 1]
        assert read(tmp_path / "out").column("row_id").to_pylist() == [f"prompts.parquet:{i}" for i in range(7)]

    def test_partitions_and_kept_columns(self, tmp_path: Path) -> None:
        for language in ("de", "en"):
            table = {"prompt": ["Lost", "The train to"], "url": [f"{language}/0", f"{language}/1"], "rank": [1, 2]}
            write(table, tmp_path / "in" / f"language={language}" / "a.parquet")
        options = ("source.keep_columns=[language,url,rank]", "output.rows_per_shard=3")
        assert generate(tmp_path / "in", tmp_path / "out", *options) == 0
        rows = read(tmp_path / "out")
        assert rows.column("url").to_pylist() == ["de/0", "de/1", "en/0", "en/1"]
        assert rows.column("language").to_pylist() == ["de", "de", "en", "en"]
        assert rows.schema.field("rank").type == pa.int64()
        assert rows.column("row_id")[0].as_py() == "language=de/a.parquet:0"

    def test_template(self, tmp_path: Path) -> None:
        source = write({"topic": ["train", None], "n": [2, 3]}, tmp_path / "in.parquet")
        options = ('source.template="{{ n }} {{ topic or \\"things\\" }}"', "source.keep_columns=[topic]")
        assert generate(source, tmp_path / "out", *options) == 0
        assert read(tmp_path / "out").column("prompt").to_pylist() == ["2 train", "3 things"]

    def test_token_ids(self, tmp_path: Path) -> None:
        texts = write({"prompt": ["The train to", "Lost"]}, tmp_path / "texts.parquet")
        stats = "stats.prompt_logprobs=true"
        assert generate(texts, tmp_path / "a", stats, "sampling.temperature=0") == 0
        ids = read(tmp_path / "a").column("prompt_token_ids").to_pylist()
        tokens = write({"ids": pa.array([*ids, [5000], None], pa.list_(pa.int64()))}, tmp_path / "tokens.parquet")
        assert generate(tokens, tmp_path / "b", stats, "source.token_ids_column=ids", "sampling.temperature=0") == 0
        given, made = read(tmp_path / "a").to_pylist(), read(tmp_path / "b").to_pylist()
        assert [row["token_ids"] for row in made[:2]] == [row["token_ids"] for row in given]
        assert [row["token_logprobs"] for row in made[:2]] == [row["token_logprobs"] for row in given]
        assert [row["error_code"] for row in made] == [None, None, "BAD_TOKEN_ID", "NULL_PROMPT"]
        assert made[0]["prompt"] is None


@pytest.mark.parametrize(("rate", "exit_code"), [(0.1, 3), (0.5, 0)])
def test_max_error_rate(
    rate: float, exit_code: int, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(source, tmp_path / "out", "sampling.max_tokens=1", f"max_error_rate={rate}") == exit_code
    told = capsys.readouterr().err
    assert ("more rows are errors than max_error_rate allows" in told) == (exit_code == 3)
    assert manifest(tmp_path / "out")["totals"]["errors"] == {"EMPTY_PROMPT": 1, "NULL_PROMPT": 1}
    assert generate(source, tmp_path / "out", "sampling.max_tokens=1", f"max_error_rate={rate}") == exit_code, "again"


def test_multirun(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "generate", "-m", "sampling.temperature=0,1", "sampling.n=1,2", f"model.path={MODEL}", f"source.path={source}",
        f"output.path={tmp_path}/sweep", "cluster=inline", "sampling.max_tokens=2", "source.limit=3", "output.report=false",
    ]  # fmt: skip
    assert main(arguments) == 0
    made = {p.name: manifest(p)["totals"]["completions"] for p in (tmp_path / "sweep").iterdir()}
    assert made == {f"sampling.temperature={t},sampling.n={n}": 3 * n for t in (0, 1) for n in (1, 2)}
    assert "4 of 4 runs complete" in capsys.readouterr().err
