"""Rows and completions → the table, against a construction value by value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.output import table
from pipeline.output.schema import output_schema
from pipeline.output.table import build_table
from pipeline.statistics import STATISTICS
from pipeline.types import Completion, ErrorCode, FinishReason, PromptRow, RowError
from tests.example_counts import examples
from tests.output.made_output import FULL, KEPT, completion, row, shard

BAD = RowError(ErrorCode.NULL_PROMPT, "no prompt")
NONFINITE = RowError(ErrorCode.NONFINITE_LOGITS, "not finite at token 3")
ERRORS = st.sampled_from([None, None, BAD, RowError(ErrorCode.NOT_UTF8, "byte 3 é")])


def plainly(
    schema: pa.Schema, rows: Sequence[PromptRow], done: Mapping[tuple[int, int], Completion], kept: pa.Table
) -> pa.Table:
    """The same table from Python values."""
    records: list[dict[str, Any]] = []
    for position, item in enumerate(rows):
        for sample in range(item.sampling.n):
            record: dict[str, Any] = dict(kept.slice(position, 1).to_pylist()[0])
            record |= {"row_id": item.row_id, "sample_index": sample, "prompt": item.prompt}
            record |= {"prompt_tokens": len(item.prompt_token_ids), "completion_tokens": 0, "finish_reason": "error"}
            made = done.get((position, sample))
            error = item.error or (made and made.error)
            if error:
                record |= {"error_code": str(error.code), "error_message": error.message}
            elif made:
                record |= {name: values.tolist() for name, values in made.statistics.items()}
                first, *others = made.prompt_token_logprobs.tolist()
                assert math.isnan(first)
                record |= {
                    "text": made.text,
                    "finish_reason": str(made.finish_reason),
                    "stop_reason": made.stop_reason,
                    "completion_tokens": len(made.token_ids),
                    "token_ids": list(made.token_ids),
                    "cumulative_logprob": float(np.sum(made.statistics["token_logprobs"].astype(np.float64))),
                    "prompt_token_ids": list(item.prompt_token_ids),
                    "prompt_token_logprobs": [None, *others],
                }
            records.append(record)
    columns = [pa.array([r.get(f.name) for r in records], f.type) for f in schema if f.name != "finish_reason"]
    plain = pa.table(columns, schema=pa.schema([f for f in schema if f.name != "finish_reason"]))
    reasons = pa.array([r["finish_reason"] for r in records], pa.string())
    return plain.append_column("finish_reason", reasons).select(schema.names)


def decoded(built: pa.Table) -> pa.Table:
    index = built.schema.get_field_index("finish_reason")
    return built.set_column(index, "finish_reason", built.column(index).cast(pa.string()))


@st.composite
def shards(draw: st.DrawFn) -> tuple[pa.Schema, list[PromptRow], dict[tuple[int, int], Completion], pa.Table]:
    statistics = draw(st.lists(st.sampled_from(list(STATISTICS)), unique=True))
    k = draw(st.integers(0, 3))
    schema = output_schema(
        KEPT,
        statistics=statistics,
        top_logprobs=k,
        prompt_logprobs=draw(st.booleans()),
        include_prompt=draw(st.booleans()),
    )
    errors = draw(st.lists(ERRORS, max_size=6))
    rows = [
        row(i, tokens=draw(st.integers(1, 4)), n=draw(st.integers(1, 3)), error=error) for i, error in enumerate(errors)
    ]
    done = {}
    for i, item in enumerate(rows):
        for s in range(item.sampling.n if item.error is None else 0):
            made = completion(item, s, length=draw(st.integers(0, 5)), k=max(1, k), seed=i)
            text = draw(st.none() | st.text(st.characters(codec="utf-8"), max_size=5))
            made = dataclasses.replace(made, text=text)
            if draw(st.integers(0, 4)) == 0:
                made = Completion(made.request, finish_reason=FinishReason.ERROR, error=NONFINITE)
            done[i, s] = made
    kept = pa.table(
        [draw(st.lists(st.none() | st.text(max_size=3).filter(str.isascii), min_size=len(rows), max_size=len(rows))),
         [draw(st.none() | st.lists(st.just("t"), max_size=2)) for _ in rows]],
        schema=KEPT,
    )  # fmt: skip
    return schema, rows, done, kept


@settings(deadline=None, max_examples=examples(60))
@given(shards(), st.integers(1, 5))
def test_the_table_is_that_of_plain_values(made: Any, chunk: int) -> None:
    before, table.CHUNK = table.CHUNK, chunk
    try:
        built = build_table(*made)
    finally:
        table.CHUNK = before
    built.validate(full=True)
    assert built.schema == made[0]
    assert decoded(built).combine_chunks().equals(plainly(*made).combine_chunks())


def test_the_order_in_which_completions_arrive_does_not_matter() -> None:
    rows, done, kept = shard(20)
    backwards = dict(reversed(done.items()))
    assert build_table(FULL, rows, backwards, kept).equals(build_table(FULL, rows, done, kept))


def test_no_rows_give_an_empty_table_of_the_schema() -> None:
    built = build_table(FULL, [], {}, KEPT.empty_table())
    assert (built.num_rows, built.schema) == (0, FULL)


def test_a_missing_completion_is_named() -> None:
    rows, done, kept = shard(3)
    del done[1, 1]
    with pytest.raises(RuntimeError, match=r"no completion for position 1 \(row 'row-1'\), sample 1"):
        build_table(FULL, rows, done, kept)


@pytest.mark.parametrize("name", [*(s.column for s in STATISTICS.values()), "top_token_ids", "top_token_logprobs"])
def test_a_statistic_that_is_absent_or_not_aligned_is_named(name: str) -> None:
    rows, done, kept = shard(3)
    good = done[2, 0]
    short = {**good.statistics, name: good.statistics[name][:-1]}
    absent = {key: value for key, value in good.statistics.items() if key != name}
    for statistics, have in ((short, "1"), (absent, "no")):
        done[2, 0] = dataclasses.replace(good, statistics=statistics)
        with pytest.raises(RuntimeError, match=f"{name} of row 'row-2', sample 0: {have} values for 2 tokens"):
            build_table(FULL, rows, done, kept)


def test_the_sum_is_made_in_double_precision_and_without_its_column() -> None:
    rows = [row(0)]
    made = completion(rows[0], 0, length=3)
    values = np.array([-1e8, -1.0, -1.0], np.float32)
    done = {(0, 0): dataclasses.replace(made, statistics={"token_logprobs": values})}
    schema = output_schema(pa.schema([]), statistics=[], top_logprobs=0, prompt_logprobs=False, include_prompt=False)
    built = build_table(schema, rows, done, pa.table({}))
    assert built.column("cumulative_logprob").to_pylist() == [-100_000_002.0]


def test_a_lone_surrogate_becomes_a_replacement_character() -> None:
    rows = [dataclasses.replace(row(0), prompt="a\ud800b 😀", row_id="x")]
    done = {(0, 0): completion(rows[0], 0)}
    kept = pa.table([["t"], [None]], schema=KEPT)
    assert build_table(FULL, rows, done, kept).column("prompt").to_pylist() == ["a\ufffdb 😀"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), s),
        lambda s: pa.StructArray.from_arrays([s], ["x"]),
        lambda s: pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int8()), s, safe=False),
    ],
)
def test_a_kept_value_that_is_not_utf_8_becomes_null(wrap: Any) -> None:
    text = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.array([0, 2, 4, 6], np.int32).tobytes()), pa.py_buffer(b"ok\xff\xfeno")]
    )
    column = wrap(text)
    rows = [row(i, n=2, error=BAD) for i in range(3)]
    schema = output_schema(
        pa.schema([("k", column.type)]), statistics=[], top_logprobs=0, prompt_logprobs=False, include_prompt=False
    )
    built = build_table(schema, rows, {}, pa.table({"k": column}))
    built.validate(full=True)
    good = wrap(pa.array(["ok", "??", "no"])).to_pylist()
    assert built.column("k").to_pylist() == [good[0], good[0], None, None, good[2], good[2]]
    assert built.schema.field("k").type == column.type


def test_kept_columns_that_are_not_of_these_rows_are_a_defect() -> None:
    rows, done, kept = shard(3)
    with pytest.raises(RuntimeError, match="2 rows of kept columns for 3 input rows"):
        build_table(FULL, rows, done, kept.slice(1))


def test_a_table_that_one_array_cannot_hold_is_made_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, done, kept = shard(10)
    whole = build_table(FULL, rows, done, kept)
    original = table._build_chunk

    def limited(schema: pa.Schema, slots: Any, kept: pa.Table) -> pa.Table:
        if len(slots) > 3:
            raise pa.ArrowInvalid("offset overflow while concatenating arrays")
        return original(schema, slots, kept)

    monkeypatch.setattr(table, "_build_chunk", limited)
    assert build_table(FULL, rows, done, kept).equals(whole)


@pytest.mark.slow
def test_kept_texts_of_more_than_2_gib_make_one_table() -> None:
    rows, done, _ = shard(3, n=900)
    kept = pa.table([["x" * (1 << 20)] * 3, [[]] * 3], schema=KEPT)
    built = build_table(FULL, rows, done, kept)
    assert built.num_rows == 2700 and built.column("topic").nbytes > 2**31
    assert built.column("topic")[-1].as_py() == "x" * (1 << 20)
