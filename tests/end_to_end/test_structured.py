"""Biases, bad words and structured output from a sampling column and from the command line, to the rows that come out."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pytest

from tests.small_runs import assert_same_rows, generate, manifest, messages, read, write

SCHEMA = {
    "type": "object", "properties": {"town": {"enum": ["Ashford", "Larkfield"]}, "dry": {"type": "boolean"}},
    "required": ["town", "dry"], "additionalProperties": False, "x-guidance": {"whitespace_flexible": False},
}  # fmt: skip
ROWS: list[dict[str, Any] | None] = [
    None,
    {"regex": "[0-9]{4}-(0[1-9]|1[0-2])"},
    {"choice": ["sun", "rain", "sun and rain"]},
    {"json_schema": json.dumps(SCHEMA), "max_tokens": 60},
    {"bad_words": ["the", "The"], "max_tokens": 40},
    {"logit_bias": {17: 100.0}, "max_tokens": 3},
    {"regex": "(a"},
    {"json_schema": '{"type": "text"}'},
    {"json_schema": "{"},
    {"choice": []},
    {"choice": [""]},
    {"regex": "a", "choice": ["b"]},
    {"logit_bias": {1024: 1.0}},
    {"logit_bias": {-1: 1.0}},
    {"logit_bias": {3: 101.0}},
    {"bad_words": [None]},
    {"regex": "[a&&b]"},
    {"regex": "a", "bad_words": ["a"]},
]
BAD = {
    6: "regex: unclosed group", 7: "json_schema: Invalid type: text", 8: "json_schema: not JSON",
    10: "choice=['']: must be a list of non-empty texts", 11: "regex and choice: exclude each other",
    12: "logit_bias: 1024 is not below the vocabulary's size, 1024", 13: "logit_bias={'-1': 1.0}: must be token ids",
    14: "logit_bias={'3': 101.0}: must be token ids", 15: "bad_words=[None]: must be a list of non-empty texts",
    16: "regex: no text that the tokens can spell matches",
}  # fmt: skip
STRUCT = pa.struct([
    ("regex", pa.string()), ("choice", pa.list_(pa.string())), ("json_schema", pa.string()),
    ("bad_words", pa.list_(pa.string())), ("logit_bias", pa.map_(pa.int64(), pa.float64())), ("max_tokens", pa.int64()),
])  # fmt: skip


def source(folder: Path, how: pa.Array[Any]) -> Path:
    ids = [f"row-{i:02d}" for i in range(len(ROWS))]
    prompts = ["Weather report for Larkfield, Monday:"] * len(ROWS)
    return write(pa.table({"id": ids, "prompt": prompts, "how": how}), folder / "in.parquet")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """From a column of structs with a map in them, from one of JSON texts, and from the first with other batches."""
    folder = tmp_path_factory.mktemp("structured")
    maps = [None if r is None else {k: [*v.items()] if isinstance(v, dict) else v for k, v in r.items()} for r in ROWS]
    columns = [
        pa.array(maps, STRUCT),
        pa.array([None if r is None else json.dumps(r) for r in ROWS]),
        pa.array(maps, STRUCT),
    ]
    made = []
    for i, (column, slots) in enumerate(zip(columns, (64, 64, 3), strict=True)):
        options = (f"engine.max_num_seqs={slots}", "source.id_column=id", "source.sampling_column=how", "sampling.n=2")
        here = folder / str(i)
        assert generate(source(here, column), here / "out", *options) == 0
        made.append(here / "out")
    return made


def test_the_form_of_the_column_and_the_batch_make_no_difference(outputs: list[Path]) -> None:
    assert_same_rows(outputs[0], outputs[1])
    assert_same_rows(outputs[0], outputs[2])


def test_texts_are_as_their_rows_ask(outputs: list[Path]) -> None:
    rows = read(outputs[0]).to_pylist()
    good = {i: [r for r in rows if r["row_id"] == f"row-{i:02d}"] for i in range(len(ROWS)) if i not in BAD}
    assert all(len(samples) == 2 for samples in good.values())
    for row in good[1]:
        assert re.fullmatch("[0-9]{4}-(0[1-9]|1[0-2])", row["text"]) and row["finish_reason"] == "stop"
        assert row["stop_reason"] is None and row["completion_tokens"] == len(row["token_logprobs"])
    for row in good[2]:
        assert row["text"] in ("sun", "rain", "sun and rain") and row["finish_reason"] == "stop"
    for row in good[3]:
        assert row["finish_reason"] == "stop"
        jsonschema.validate(json.loads(row["text"]), SCHEMA)
    assert all(not re.search(r"(^| )[tT]he\b", row["text"]) for row in good[4])
    assert all(row["token_ids"] == [17] * 3 for row in good[5])
    assert all(len(row["text"]) > 20 for row in good[0] + good[9])
    for row in good[17]:  # nothing may come at all
        assert (row["text"], row["token_ids"], row["finish_reason"], row["cumulative_logprob"]) == ("", [], "length", 0)


def test_what_cannot_be_followed_is_bad_sampling(outputs: list[Path]) -> None:
    rows = [r for r in read(outputs[0]).to_pylist() if r["error_code"] is not None]
    assert [(r["row_id"], r["error_code"]) for r in rows] == [
        (f"row-{i:02d}", "BAD_SAMPLING") for i in BAD for _ in range(2)
    ]
    for row in rows:
        assert row["error_message"].startswith(BAD[int(row["row_id"][-2:])]), row["error_message"]
    assert manifest(outputs[0])["totals"]["errors"] == {"BAD_SAMPLING": 2 * len(BAD)}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (['sampling.regex="(a"'], "sampling.regex=(a: unclosed group"),
        (["sampling.json_schema={type:text}"], "sampling.json_schema: Invalid type: text"),
        (['sampling.regex="[a&&b]"'], "sampling.regex=[a&&b]: no text that the tokens can spell matches"),
        (["sampling.logit_bias={1024:1}"], "sampling.logit_bias: 1024 is no token of the model, which has ids 0 to 1023"),
    ],
)  # fmt: skip
def test_a_job_that_cannot_be_followed_is_refused(
    tmp_path: Path, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write({"prompt": ["The train to"]}, tmp_path / "in.parquet")
    assert generate(path, tmp_path / "out", *options) == 2
    assert messages(capsys.readouterr().err) == [f"promptmill: {told}"]
    assert not (tmp_path / "out").exists()


def test_a_jobs_own_structure(tmp_path: Path) -> None:
    """A row that says otherwise has its own; the plan knows the structure."""
    how = pa.array([None, '{"regex": "[0-9]+"}', '{"choice": []}'])
    path = write(pa.table({"prompt": ["The train to"] * 3, "how": how}), tmp_path / "in.parquet")
    options = ("sampling.choice=[yes,no]", "source.sampling_column=how", "sampling.seed=3")
    assert generate(path, tmp_path / "out", *options) == 0
    first, second, third = read(tmp_path / "out").to_pylist()
    assert (
        first["text"] in ("yes", "no") and re.fullmatch("[0-9]+", second["text"]) and third["text"] not in ("yes", "no")
    )
    plan = json.loads((tmp_path / "out" / "_job" / "plan.json").read_text())
    assert plan["fingerprint"]["sampling"]["choice"] == ["yes", "no"]
    assert generate(path, tmp_path / "out", *options) == 0
    assert generate(path, tmp_path / "out", "sampling.choice=[no,yes]", *options[1:]) == 2


@pytest.mark.parametrize("of_a_row", [False, True])
def test_without_the_library_a_job_says_how_to_get_it(
    tmp_path: Path, of_a_row: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row's own is not the row's fault: it is no row error, which another machine would not repeat."""
    for name in [name for name in sys.modules if name.split(".")[0] == "llguidance"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    path = write({"prompt": ["The train to"], "how": ['{"regex": "a"}']}, tmp_path / "in.parquet")
    options = ["source.sampling_column=how"] if of_a_row else ["sampling.regex=a"]
    assert generate(path, tmp_path / "out", *options) == 2
    assert "sampling.regex: needs the llguidance package (the extra `structured`)" in capsys.readouterr().err


def test_the_schema_of_the_documentation_makes_json_of_a_small_models_texts(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "your-prompts.md").read_text(encoding="utf-8")
    (option,) = re.findall(r"`'(sampling\.json_schema=\{.*\})'`", page)
    prompts = ["The train to", "Weather report for", "A city in", "Lost"] * 5
    assert (
        generate(
            write({"prompt": prompts}, tmp_path / "in.parquet"), tmp_path / "out", option, "sampling.max_tokens=64"
        )
        == 0
    )
    rows = read(tmp_path / "out").to_pylist()
    assert len(rows) == len(prompts)
    for row in rows:
        jsonschema.validate(json.loads(row["text"]), json.loads(option.partition("=")[2]))
