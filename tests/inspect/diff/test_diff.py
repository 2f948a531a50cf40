"""Two outputs compared: counts as DuckDB has them, and the cause named, for real runs of the demo model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.diff import main
from jobs.options.spelling import tokenizer_of
from pipeline.errors import PlanRefused
from pipeline.inspect.config import DiffConfig
from pipeline.inspect.diff.diff import diff
from pipeline.inspect.diff.page import diff_page
from pipeline.inspect.diff.result import BROKEN, Difference
from pipeline.inspect.diff.table import lines
from pipeline.output.part import part_name
from tests.small_runs import generate, prompts, write

OPTIONS = ("source.id_column=id", "source.keep_columns=[topic]", "sampling.n=2", "output.rows_per_shard=5")
HOSTILE = "<script>alert(1)</script> \u202e\x1b[2J"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of one input, each with one thing different."""
    folder = tmp_path_factory.mktemp("runs")
    table = prompts(12)
    texts = table.column("prompt").to_pylist()
    texts[1] = HOSTILE
    table = table.set_column(1, "prompt", pa.array(texts, pa.string()))
    plain = write(table, folder / "in.parquet")
    turned = write(table.take(list(reversed(range(12)))), folder / "turned.parquet")
    for name, source, *more in (
        ("one", plain), ("seed", plain, "sampling.seed=3"), ("int8", plain, "model.quantization=int8", "stats=full"),
        ("turned", turned, "output.rows_per_shard=7"), ("single", plain, "sampling.n=1", "stats=minimal"),
        ("topics", plain, "source.template='{{ topic }}'"),
    ):  # fmt: skip
        assert generate(source, folder / name, *OPTIONS, *more) == 0
    return folder


def compared(a: Path, b: Path) -> Difference:
    return diff(DiffConfig(a=str(a), b=str(b)), tokenizer_of, lambda done, rows: None)


def topics(found: Difference) -> list[str]:
    return [cause.topic for cause in found.explanation.causes]


def counted(a: Path, b: Path, what: str) -> int:
    """How many of the rows that both have fit, by DuckDB."""
    with duckdb.connect() as sql:
        tables = f"'{a}/data/*.parquet' a join '{b}/data/*.parquet' b using (row_id, sample_index)"
        query = f"select count(*) from {tables} where {what}"
        (number,) = sql.sql(query).fetchall()[0]
    return int(number)


def damaged(output: Path, copy: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of an output whose first row is another."""
    shutil.copytree(output, copy)
    part = sorted((copy / "data").iterdir())[0]
    table = pq.read_table(part)
    rows = table.to_pylist()
    change(rows[0])
    pq.write_table(pa.Table.from_pylist(rows, table.schema), part)
    return copy


def test_an_output_equals_itself(runs: Path) -> None:
    found = compared(runs / "one", runs / "one")
    assert found.equal and found.tally.equal == 24 and found.matched.same_order is True
    assert list(found.because()) == [] and found.tally.examples == []


@pytest.mark.parametrize(("other", "topic"), [("seed", "seed"), ("int8", "precision"), ("topics", "prompts")])
def test_the_cause_is_named_and_the_counts_are_those_of_sql(runs: Path, other: str, topic: str) -> None:
    a, b = runs / "one", runs / other
    found = compared(a, b)
    assert topics(found) == [topic]
    tally = found.tally
    assert tally.equal + tally.different == 24
    assert tally.columns["text"] == counted(a, b, "a.text is distinct from b.text")
    assert tally.columns["token_logprobs"] == counted(a, b, "a.token_logprobs is distinct from b.token_logprobs")
    if topic != "prompts":
        assert tally.kinds["tokens"] == counted(a, b, "a.token_ids is distinct from b.token_ids")
        same = "a.token_ids = b.token_ids and a.token_logprobs is distinct from b.token_logprobs"
        assert tally.kinds["statistics"] == counted(a, b, same)
        assert found.explanation.unexplained == frozenset()


def test_the_first_token_that_differs(runs: Path) -> None:
    found = compared(runs / "one", runs / "seed")
    example = next(e for e in found.tally.examples if e.kind == "tokens")
    place = next(
        i for i, (x, y) in enumerate(zip(example.a["token_ids"], example.b["token_ids"], strict=True)) if x != y
    )
    assert example.place == place
    token = found.tokens.first(example, "a")
    assert token.id == example.a["token_ids"][place] and token.text and token.text in example.a["text"]
    assert token.probability == pytest.approx(2.718281828459045 ** example.a["token_logprobs"][place])
    assert found.tally.drift.most == 0.0  # before they part, one model says the same of one text


def test_drift_is_that_of_the_common_beginning(runs: Path) -> None:
    found = compared(runs / "one", runs / "int8")
    tables = [
        pa.concat_tables([pq.read_table(p) for p in sorted((runs / n / "data").iterdir())]).to_pylist()
        for n in ("one", "int8")
    ]
    apart = []
    for mine, its in zip(*tables, strict=True):
        for x, y, p, q in zip(
            *(row[c] or [] for c in ("token_ids", "token_logprobs") for row in (mine, its)), strict=False
        ):
            if x != y:
                break
            apart.append(abs(p - q))
    drift = found.tally.drift
    assert (drift.tokens, drift.most) == (len(apart), max(apart))
    assert drift.mean == pytest.approx(sum(apart) / len(apart))


def test_the_alternatives_of_the_side_that_has_them(runs: Path) -> None:
    found = compared(runs / "int8", runs / "one")
    shown = [found.tokens.first(e, "b") for e in found.tally.examples if e.kind == "tokens"]
    assert all(token.there is None or 0 < token.there <= 1 for token in shown)
    assert found.columns()["only_in_a"] == [
        "top_token_ids",
        "top_token_logprobs",
        "prompt_token_ids",
        "prompt_token_logprobs",
    ]


def test_another_order_of_one_input_differs_in_no_row(runs: Path) -> None:
    found = compared(runs / "one", runs / "turned")
    assert found.equal and found.matched.same_order is False
    assert found.verdict() == "equal: 24 rows, in another order"
    assert topics(found) == [] and [cause.topic for cause in found.explanation.others] == ["input"]


def test_fewer_samples_and_statistics_that_one_side_lacks(runs: Path) -> None:
    found = compared(runs / "one", runs / "single")
    assert (found.tally.different, found.matched.only_a.rows, found.matched.only_a.samples) == (0, 12, 12)
    assert topics(found) == ["number of samples"]
    assert found.columns()["only_in_a"] == ["token_entropies", "token_ranks"]


def test_an_output_that_is_not_finished(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "one", tmp_path / "half")
    sorted((tmp_path / "half" / "data").iterdir())[1].unlink()
    (tmp_path / "half" / "_job" / "manifest.json").unlink()
    found = compared(runs / "one", tmp_path / "half")
    assert (found.tally.different, found.matched.only_a.rows) == (0, 10)
    assert topics(found) == ["not finished"] and "b lacks 1 of 3 parts" in next(found.because())
    assert found.matched.same_order is True
    assert "not finished: 2 of 3 parts" in list(lines(found))[1]


def test_an_output_without_a_part_is_refused_and_one_that_is_equal_so_far_is_said_to_be(
    runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs / "one", tmp_path / "half")
    parts = sorted((tmp_path / "half" / "data").iterdir())
    parts[-1].unlink()
    assert compared(tmp_path / "half", tmp_path / "half").verdict() == "equal so far: 20 rows"
    for part in parts[:-1]:
        part.unlink()
    with pytest.raises(PlanRefused, match=r"b=.*half: no part is committed yet"):
        compared(runs / "one", tmp_path / "half")


def test_kept_columns_of_every_type(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "words": pa.array([["x"], ["y", None]], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
        "when": pa.array([{"at": 1}, None], pa.struct([("at", pa.timestamp("us"))])),
        "who": pa.array([b"0" * 16, b"1" * 16], pa.uuid()),
        "what": pa.array(['{"a": 1}', None], pa.json_()),
        "pairs": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
        "how": pa.array(["p", "q"], pa.dictionary(pa.int32(), pa.string())),
    }
    keys: dict[str, Any] = {"row_id": ["a", "b"], "sample_index": pa.array([0, 0], pa.int32())}
    for name, order in (("a", [0, 1]), ("b", [1, 0])):
        (tmp_path / name / "data").mkdir(parents=True)
        pq.write_table(pa.table({**keys, **values}).take(order), tmp_path / name / part_name("0123abcd", 0, 1))
    found = compared(tmp_path / "a", tmp_path / "b")
    assert found.equal and found.matched.same_order is False and set(values) <= set(found.compared)


def test_ids_of_another_type_match_no_row(tmp_path: Path) -> None:
    for name, kind in (("a", pa.string()), ("b", pa.large_string())):
        (tmp_path / name / "data").mkdir(parents=True)
        table = pa.table({"row_id": pa.array(["x"], kind), "sample_index": pa.array([0], pa.int32())})
        pq.write_table(table, tmp_path / name / part_name("0123abcd", 0, 1))
    with pytest.raises(PlanRefused, match="row_id is string in a and large_string in b"):
        compared(tmp_path / "a", tmp_path / "b")


def test_a_row_that_differs_without_a_cause_breaks_the_promise(runs: Path, tmp_path: Path) -> None:
    broken = damaged(runs / "one", tmp_path / "broken", lambda row: row.update(text="another"))
    found = compared(runs / "one", broken)
    assert found.tally.kinds["tokens"] == 1 and list(found.because()) == [BROKEN]


def test_a_row_that_killed_a_replica_says_nothing_of_the_promise(runs: Path, tmp_path: Path) -> None:
    lists = ("token_ids", "token_logprobs", "token_entropies", "token_ranks", "text")
    error = {
        "error_code": "WORKER_CRASH",
        "error_message": "it crashed",
        "finish_reason": "error",
        **dict.fromkeys(lists),
    }
    found = compared(runs / "one", damaged(runs / "one", tmp_path / "crashed", lambda row: row.update(error)))
    assert found.tally.kinds["errors"] == 1 and found.tally.errors[None, "WORKER_CRASH"] == 1
    (line,) = found.because()
    assert line.startswith("1 row killed or hung a replica on one side only")


def test_a_plan_that_cannot_be_read_is_said(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "seed", tmp_path / "lost")
    (tmp_path / "lost" / "_job" / "plan.json").write_text("{")
    found = compared(runs / "one", tmp_path / "lost")
    assert found.tally.different and next(found.because()).startswith("cannot be named fully: b has no plan")


def test_a_damaged_part_is_named(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "one", tmp_path / "cut")
    part = sorted((tmp_path / "cut" / "data").iterdir())[0]
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(PlanRefused, match=r"cut/data/\w+-00000-of-00003.parquet cannot be read"):
        compared(runs / "one", tmp_path / "cut")


def test_the_command(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(runs / "one"), str(runs / "seed"), f"json={tmp_path / 'd.json'}", f"html={tmp_path / 'd.html'}"]
    assert main(words) == 5
    text = capsys.readouterr().out
    assert "because        seed: sampling.seed: 0 → 3" in text and not set("\x1b\u202e") & set(text)
    body = json.loads((tmp_path / "d.json").read_text())
    assert (
        body["causes"][0]["topic"] == "seed"
        and body["rows"]["different"] == body["columns"]["different_rows"]["token_ids"]
    )
    page = (tmp_path / "d.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page and "Content-Security-Policy" in page
    assert "\u202e" not in page and 'class="t diff' in page
    assert main([f"a={runs / 'one'}", f"b={runs / 'turned'}"]) == 0


def test_the_same_outputs_give_the_same_bytes(runs: Path) -> None:
    first, again = (compared(runs / "turned", runs / "seed") for _ in range(2))
    assert first.to_json() == again.to_json() and diff_page(first) == diff_page(again)
