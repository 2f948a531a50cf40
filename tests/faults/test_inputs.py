"""Faults 1 to 6, 11, 12, 14 and 38: inputs that are wrong, damaged, empty or hostile."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest

from jobs.cli import main
from pipeline.planning.fingerprint import digest
from pipeline.planning.plan import Plan
from tests.small_runs import generate, manifest, messages, read, write


def by_row(output: Path) -> dict[str, dict[str, Any]]:
    return {row["row_id"]: row for row in read(output).to_pylist()}


def texts(path: Path, *values: str | None) -> Path:
    return write({"prompt": pa.array(values, pa.string())}, path)


def test_fault_01_null_prompt(tmp_path: Path) -> None:
    source = texts(tmp_path / "in.parquet", "The train to", None, "Lost")
    assert generate(source, tmp_path / "out", "sampling.n=2") == 0
    rows = read(tmp_path / "out").to_pylist()
    assert [row["error_code"] for row in rows] == [None, None, "NULL_PROMPT", "NULL_PROMPT", None, None]
    assert [row["finish_reason"] == "error" for row in rows] == [row["error_code"] is not None for row in rows]
    assert rows[2]["error_message"] and rows[2]["text"] is None and rows[4]["text"]
    assert manifest(tmp_path / "out")["totals"]["errors"] == {"NULL_PROMPT": 2}


def test_fault_02_prompt_column_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write({"text": ["a"], "url": ["b"]}, tmp_path / "in.parquet")
    assert generate(source, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "'prompt'" in told and "text (string)" in told and "url (string)" in told
    assert len(messages(told)) == 1
    assert not (tmp_path / "out").exists()


def test_fault_02_prompt_column_of_a_wrong_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write({"prompt": [1, 2]}, tmp_path / "in.parquet")
    assert generate(source, tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "source.prompt_column" in told and "int64" in told
    assert not (tmp_path / "out").exists()


def test_fault_03_invalid_utf8(tmp_path: Path) -> None:
    broken = pa.array([b"The train to", b"caf\xe9 \xff", b"Lost"], pa.binary()).view(pa.string())
    source = write(pa.table({"prompt": broken}), tmp_path / "in.parquet")
    assert generate(source, tmp_path / "out") == 0
    rows = read(tmp_path / "out").to_pylist()
    assert [row["error_code"] for row in rows] == [None, "NOT_UTF8", None]
    assert rows[1]["prompt"] is None


class TestLongPrompts:
    """Fault 4; the demo model's context is 256 tokens."""

    PROMPT = "Once there was an old bear called Tom. " * 60

    def test_fault_04_error(self, tmp_path: Path) -> None:
        source = texts(tmp_path / "in.parquet", self.PROMPT, "Lost")
        assert generate(source, tmp_path / "out") == 0
        assert read(tmp_path / "out").column("error_code").to_pylist() == ["PROMPT_TOO_LONG", None]

    def test_fault_04_truncate_left(self, tmp_path: Path) -> None:
        source = texts(tmp_path / "in.parquet", self.PROMPT, "Lost")
        options = ("source.on_long_prompt=truncate_left", "stats.prompt_logprobs=true", "sampling.ignore_eos=true")
        assert generate(source, tmp_path / "out", *options) == 0
        (long, short) = read(tmp_path / "out").to_pylist()
        assert (long["error_code"], long["prompt_tokens"], long["completion_tokens"]) == (None, 248, 8)
        assert len(long["prompt_token_ids"]) == 248
        assert short["completion_tokens"] == 8

    def test_fault_04_max_tokens_is_clamped_to_what_is_left(self, tmp_path: Path) -> None:
        source = texts(tmp_path / "in.parquet", "The train to Wexley")
        options = ("sampling.max_tokens=5000", "sampling.ignore_eos=true", "engine.max_model_len=32")
        assert generate(source, tmp_path / "out", *options) == 0
        (row,) = read(tmp_path / "out").to_pylist()
        assert row["finish_reason"] == "length" and row["error_code"] is None
        assert row["prompt_tokens"] + row["completion_tokens"] == 32


@pytest.mark.parametrize(("how", "code"), [("error", "EMPTY_PROMPT"), ("bos", None)])
def test_fault_05_empty_prompt(how: str, code: str | None, tmp_path: Path) -> None:
    source = texts(tmp_path / "in.parquet", "", "Lost")
    options = (f"source.on_empty_prompt={how}", "stats.prompt_logprobs=true")
    assert generate(source, tmp_path / "out", *options) == 0
    (empty, other) = read(tmp_path / "out").to_pylist()
    assert (empty["error_code"], other["error_code"]) == (code, None)
    if code is None:
        assert empty["prompt_token_ids"] == [0] and empty["prompt_token_logprobs"] == [None]


def test_fault_06_duplicate_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write({"id": ["a", "b", "a", "c", "b"], "prompt": ["x"] * 5}, tmp_path / "in.parquet")
    assert generate(source, tmp_path / "out", "source.id_column=id") == 2
    told = capsys.readouterr().err
    assert "2 rows" in told and "'a' at in.parquet:0, in.parquet:2" in told and "'b'" in told
    assert not (tmp_path / "out").exists()


def test_fault_11_corrupt_footer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts(tmp_path / "in" / "good.parquet", "Lost")
    damaged = texts(tmp_path / "in" / "worse.parquet", "Lost")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2 : -8] = b"\xff" * (len(content) - 8 - len(content) // 2)
    damaged.write_bytes(content)
    assert generate(tmp_path / "in", tmp_path / "out") == 2
    told = capsys.readouterr().err
    assert "worse.parquet" in told and len(messages(told)) == 1
    assert not (tmp_path / "out").exists()


def with_a_corrupt_page(path: Path) -> Path:
    """Twelve rows in three row groups; a page of the prompts in the second is damaged."""
    table = pa.table({"id": [f"row-{i:02d}" for i in range(12)], "prompt": [f"The train to {i}" for i in range(12)]})
    pq.write_table(table, path, row_group_size=4, write_page_checksum=True, use_dictionary=False, compression="none")
    chunk = pq.read_metadata(path).row_group(1).column(1)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 1
    path.write_bytes(content)
    return path


def test_fault_12_a_corrupt_page_ends_the_job_and_spares_what_is_committed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = with_a_corrupt_page(tmp_path / "in.parquet")
    assert generate(source, tmp_path / "out", "output.rows_per_shard=2", "engine.max_num_seqs=1") == 1
    told = capsys.readouterr().err.splitlines()
    assert "in.parquet: row group 1" in told[-1] and "source.on_corrupt=skip" in told[-1]
    assert any("WARNING the input is damaged" in line and "row group 1, column 'prompt'" in line for line in told[:-1])
    assert all(pq.read_table(part).num_rows == 2 for part in (tmp_path / "out" / "data").glob("*.parquet"))


def test_fault_12_a_job_that_a_corrupt_page_ended_goes_on_without_its_rows(tmp_path: Path) -> None:
    source = with_a_corrupt_page(tmp_path / "in.parquet")
    assert generate(source, tmp_path / "out", "output.rows_per_shard=2", "engine.max_num_seqs=1") == 1
    before = {part: part.read_bytes() for part in (tmp_path / "out" / "data").glob("*.parquet")}
    assert before
    assert generate(source, tmp_path / "out", "source.on_corrupt=skip") == 0
    assert all(part.read_bytes() == content for part, content in before.items())
    assert generate(source, tmp_path / "at-once", "source.on_corrupt=skip", "output.rows_per_shard=2") == 0
    assert read(tmp_path / "out") == read(tmp_path / "at-once")
    assert generate(source, tmp_path / "out") == 0  # nothing is left to read; its setting is the last one, now
    assert main(["verify", f"output.path={tmp_path / 'out'}", "replay=12"]) == 0


@pytest.mark.parametrize("rows_per_shard", [1, 5, 12])
@pytest.mark.parametrize("ids", [(), ("source.id_column=id",)])
def test_fault_12_rows_of_a_corrupt_page_are_skipped(ids: tuple[str, ...], rows_per_shard: int, tmp_path: Path) -> None:
    source = with_a_corrupt_page(tmp_path / "in.parquet")
    options = (*ids, f"output.rows_per_shard={rows_per_shard}", "source.on_corrupt=skip")
    assert generate(source, tmp_path / "out", *options) == 0
    rows = read(tmp_path / "out").to_pylist()
    names = [f"row-{i:02d}" if ids else f"in.parquet:{i}" for i in range(12)]
    assert sorted(row["row_id"] for row in rows) == sorted(names)
    broken = {names[i] for i in range(4, 8)}
    assert {row["row_id"] for row in rows if row["error_code"] == "CORRUPT_INPUT"} == broken
    assert all(row["text"] for row in rows if row["row_id"] not in broken)


@pytest.mark.parametrize("limit", ["null", "0"])
def test_fault_14_no_input_rows(limit: str, tmp_path: Path) -> None:
    source = texts(tmp_path / "in.parquet", *([] if limit == "null" else ["Lost"]))
    assert generate(source, tmp_path / "out", f"source.limit={limit}", "stats.top_logprobs=2") == 0
    body = manifest(tmp_path / "out")
    assert (body["totals"]["rows"], body["totals"]["completions"], len(body["parts"])) == (0, 0, 1)
    table = pq.read_table(tmp_path / "out" / "data")
    assert table.num_rows == 0 and {"row_id", "text", "token_logprobs"} <= set(table.column_names)
    # How pandas, Polars, DuckDB and datasets open it is shown in tests/output/test_readers.py.


class TestHostileInputs:
    """Fault 38."""

    SCRIPT = (
        "<script>alert(1)</script>\n---\n# not a heading\n[x](javascript:alert(1)) | `` ` ``\n```\n<script>2</script>"
    )
    IDS = ("../../etc/passwd", "/etc/passwd", "a\nb", "..", "data/x.parquet", "\u202e\x1b[31m")

    def test_fault_38_prompts_and_ids_are_only_data(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        prompts = [self.SCRIPT, "\x1b[2J\x1b[31mred", "{{ 7 * 7 }}", "[bold red]markup[/]", "../../x", "\x00"]
        source = write({"id": self.IDS, "prompt": prompts}, tmp_path / "place" / "in.parquet")
        outside = {p for p in tmp_path.rglob("*")}
        assert generate(source, tmp_path / "place" / "out", "source.id_column=id") == 0
        made = {p for p in tmp_path.rglob("*")} - outside
        assert all(p == tmp_path / "place" / "out" or tmp_path / "place" / "out" in p.parents for p in made)
        assert not any("passwd" in p.name for p in made)
        rows = by_row(tmp_path / "place" / "out")
        assert [rows[i]["prompt"] for i in self.IDS] == prompts, "kept as they were, and never a template"
        card = (tmp_path / "place" / "out" / "README.md").read_text()
        assert "<script>" not in re.sub(r"(?ms)^(`{3,})text\n.*?^\1$", "", card), "nothing but fenced text"
        told = capsys.readouterr().err
        assert "\x1b" not in told and "\u202e" not in told

    @pytest.mark.parametrize(
        "template",
        [
            "{{ prompt.__class__.__mro__[1].__subclasses__() }}",
            "{{ ''.__class__.__base__ }}",
            "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
            "{% include '/etc/passwd' %}",
            "{% for i in range(10**12) %}x{% endfor %}",
            "{{ 'x' * 10**12 }}",
        ],
    )
    def test_fault_38_templates_cannot_break_out(
        self, template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = texts(tmp_path / "in.parquet", "Lost")
        code = generate(source, tmp_path / "out", 'source.template="' + template.replace('"', '\\"') + '"')
        if code == 2:
            assert len(messages(capsys.readouterr().err)) == 1
            return
        (row,) = read(tmp_path / "out").to_pylist()
        assert (code, row["error_code"]) == (0, "BAD_TEMPLATE_ROW")


PLAIN: dict[str, Any] = {"use_dictionary": False, "compression": "none", "write_statistics": False}


def test_fault_13_a_row_is_corrected_in_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "in.parquet", tmp_path / "out"
    pq.write_table(pa.table({"prompt": ["A city in France", "Lost"]}), source, **PLAIN)
    size = source.stat().st_size
    assert generate(source, output) == 0
    pq.write_table(pa.table({"prompt": ["A city in Poland", "Lost"]}), source, **PLAIN)
    assert source.stat().st_size == size
    capsys.readouterr()
    assert generate(source, output) == 2
    told = capsys.readouterr().err
    assert "in.parquet.content" in told and len(messages(told)) == 1


def test_fault_13_an_output_of_an_earlier_version_is_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = texts(tmp_path / "in.parquet", "Lost"), tmp_path / "out"
    assert generate(source, output) == 0
    file = output / "_job" / "plan.json"
    plan = Plan.from_json(file.read_bytes())
    fingerprint = {**plan.fingerprint, "input": {f.name: f.identity(1) for f in plan.files}}
    files = tuple(replace(f, groups=(), stamp="") for f in plan.files)
    file.write_bytes(
        replace(plan, format=1, plan_id=digest(fingerprint), fingerprint=fingerprint, files=files).to_json()
    )
    capsys.readouterr()
    assert generate(source, output) == 2
    assert "an earlier version" in capsys.readouterr().err


def test_fault_03_a_kept_text_that_is_not_utf_8_is_an_error_and_not_a_null(tmp_path: Path) -> None:
    odd = pa.array([b"ok", b"caf\xe9", b"fine"], pa.binary()).view(pa.string())
    table = {"prompt": ["The train to", "Lost", "A"], "k": odd, "c": odd.dictionary_encode(), "l": [["x"]] * 3}
    source = write(pa.table(table), tmp_path / "in.parquet")
    assert generate(source, tmp_path / "out", "source.keep_columns=[k,c,l]") == 0
    rows = read(tmp_path / "out").to_pylist()
    assert [row["error_code"] for row in rows] == [None, "NOT_UTF8", None]
    assert [row["k"] for row in rows] == [row["c"] for row in rows] == ["ok", None, "fine"]
    assert "'k'" in rows[1]["error_message"]


@pytest.mark.parametrize("options", [(), ("source.keep_columns=[prompt]", "output.include_prompt=false")])
def test_fault_03_categories_that_are_not_utf_8(tmp_path: Path, options: tuple[str, ...]) -> None:
    odd = pa.array([b"The train to", b"caf\xe9", None, b"Lost"], pa.binary()).view(pa.string()).dictionary_encode()
    source = write(pa.table({"prompt": odd}), tmp_path / "in.parquet")
    assert generate(source, tmp_path / "out", *options) == 0
    assert read(tmp_path / "out").column("error_code").to_pylist() == [None, "NOT_UTF8", "NULL_PROMPT", None]


def test_fault_04_a_text_of_megabytes_is_too_long_before_it_is_tokenised(tmp_path: Path) -> None:
    source = texts(tmp_path / "in.parquet", "x " * 6_000_000, "Lost")
    assert generate(source, tmp_path / "out") == 0
    row, _ = read(tmp_path / "out").to_pylist()
    assert row["error_code"] == "PROMPT_TOO_LONG" and "12,000,000 characters" in row["error_message"]


def test_kept_columns_of_every_way_of_holding_values(tmp_path: Path) -> None:
    kept: dict[str, pa.Array[Any]] = {
        "view": pa.array(["a", None], pa.string_view()),
        "bytes": pa.array([b"\x00\xff", None], pa.binary_view()),
        "views": pa.array([[["a"], []], None], pa.list_view(pa.list_view(pa.string_view()))),
        "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(range(16)), None], pa.binary(16))),
        "json": pa.array(['{"a": 1}', None], pa.json_()),
        "map": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
    }
    source = write(pa.table({"prompt": ["The train to", "Lost"], **kept}), tmp_path / "in.parquet")
    assert generate(source, tmp_path / "out", f"source.keep_columns=[{','.join(kept)}]") == 0
    found = read(tmp_path / "out")
    for name in ("view", "bytes", "views", "uuid", "json"):
        assert found.column(name).to_pylist() == kept[name].to_pylist(), name
    assert found.column("map").to_pylist() == [[{"key": "a", "value": 1}], None]
    (part,) = (tmp_path / "out" / "data").glob("*.parquet")
    schema = pq.read_metadata(part).schema
    marks = {schema.column(i).path: schema.column(i).logical_type.type for i in range(len(schema))}
    assert (marks["uuid"], marks["json"]) == ("UUID", "JSON")


def test_a_kept_interval_is_refused_before_anything_is_generated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    duckdb.sql(f"COPY (SELECT 'Lost' prompt, INTERVAL 1 MONTH i) TO '{tmp_path}/in.parquet'")
    assert generate(tmp_path / "in.parquet", tmp_path / "out", "source.keep_columns=[i]") == 2
    assert "column 'i' is INTERVAL" in capsys.readouterr().err
    assert generate(tmp_path / "in.parquet", tmp_path / "out") == 0


def test_a_folder_on_the_way_to_the_output_is_not_taken_for_a_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = texts(tmp_path / "in.parquet", "Lost")
    assert generate(source, f'"{tmp_path}/Text=5/out"') == 2
    assert "the folder 'Text=5' for the column 'Text'" in capsys.readouterr().err
    assert generate(source, f'"{tmp_path}/day=5/out"') == 0


def test_an_encrypted_column_is_read_only_by_who_uses_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = encrypted(tmp_path / "in.parquet", {"prompt": ["Lost"], "secret": [1]}, "secret")
    assert generate(source, tmp_path / "out") == 0
    assert generate(source, tmp_path / "out2", "source.id_column=secret") == 2
    assert "in.parquet: column 'secret' is encrypted" in capsys.readouterr().err


def encrypted(path: Path, columns: dict[str, list[Any]], *secret: str) -> Path:
    class Keys(encryption.KmsClient):
        def __init__(self, config: object) -> None:
            super().__init__()

        def wrap_key(self, key: bytes, name: str) -> Any:
            return base64.b64encode(key)

    table = pa.table(columns)
    config = encryption.EncryptionConfiguration(footer_key="f", column_keys={"c": list(secret)}, plaintext_footer=True)
    factory = encryption.CryptoFactory(lambda _: Keys(None))
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), config)
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    return path


def test_an_unused_column_of_a_type_that_arrow_does_not_have(tmp_path: Path) -> None:
    wide = polars.Series([1, 2], dtype=polars.Int128)
    polars.DataFrame({"prompt": ["The train to", "Lost"], "n": wide}).write_parquet(tmp_path / "in.parquet")
    assert generate(tmp_path / "in.parquet", tmp_path / "out") == 0
    assert read(tmp_path / "out").column("prompt").to_pylist() == ["The train to", "Lost"]


def test_one_long_text_in_every_row_is_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 9000, pa.int32()), pa.array(["x" * 280_000]))
    messages = pa.ListArray.from_arrays(
        pa.array(range(9001), pa.int32()), pa.StructArray.from_arrays([long], ["content"])
    )
    pq.write_table(pa.table({"m": messages}), tmp_path / "in.parquet", store_schema=False, compression="zstd")
    options = ("source.template='{{ m[0].content[:3] }}'", "source.limit=2")
    assert generate(tmp_path / "in.parquet", tmp_path / "out", *options) == 0
    assert read(tmp_path / "out").column("prompt").to_pylist() == ["xxx"] * 2
