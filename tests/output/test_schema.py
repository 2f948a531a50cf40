"""The columns, exactly as the contract lists them."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import InputRefused
from pipeline.output.schema import COLUMNS, MEANINGS, kept_type, output_schema

NONE = pa.schema([])


def test_all_columns_in_the_order_of_the_contract() -> None:
    kept = pa.schema([("topic", pa.string()), ("deep", pa.struct([("a", pa.list_(pa.int8()))]))])
    schema = output_schema(
        kept, statistics=["rank", "logprob", "entropy"], top_logprobs=2, prompt_logprobs=True, include_prompt=True
    )
    ints, floats = pa.list_(pa.int32()), pa.list_(pa.float32())
    expected: list[tuple[str, pa.DataType]] = [
        ("row_id", pa.string()), ("sample_index", pa.int32()),
        ("topic", pa.string()), ("deep", pa.struct([("a", pa.list_(pa.int8()))])),
        ("prompt", pa.string()), ("text", pa.string()),
        ("finish_reason", pa.dictionary(pa.int8(), pa.string())), ("stop_reason", pa.string()),
        ("prompt_tokens", pa.int32()), ("completion_tokens", pa.int32()), ("cumulative_logprob", pa.float64()),
        ("error_code", pa.string()), ("error_message", pa.string()),
        ("token_ids", ints), ("token_logprobs", floats), ("token_entropies", floats), ("token_ranks", ints),
        ("top_token_ids", pa.list_(ints)), ("top_token_logprobs", pa.list_(floats)),
        ("prompt_token_ids", ints), ("prompt_token_logprobs", floats),
    ]  # fmt: skip
    assert schema == pa.schema(expected)


def test_what_is_not_chosen_has_no_column() -> None:
    schema = output_schema(NONE, statistics=["entropy"], top_logprobs=0, prompt_logprobs=False, include_prompt=False)
    absent = {"prompt", "messages", "token_logprobs", "token_ranks", "top_token_ids", "top_token_logprobs"}
    assert schema.names == [n for n in COLUMNS if n not in absent | {"prompt_token_ids", "prompt_token_logprobs"}]


@pytest.mark.parametrize("name", [*COLUMNS, "token_logprobs.list.element"])
def test_a_kept_column_with_the_name_of_an_output_column_is_refused(name: str) -> None:
    with pytest.raises(InputRefused, match=f"kept column '{name}' has the name"):
        output_schema(
            pa.schema([("ok", pa.int8()), (name, pa.int8())]),
            statistics=[], top_logprobs=0, prompt_logprobs=False, include_prompt=True, messages=True,
        )  # fmt: skip


def test_the_input_s_prompt_may_be_kept_where_the_rendered_one_is_not_written() -> None:
    kept = pa.schema([("prompt", pa.large_string())])
    schema = output_schema(kept, statistics=[], top_logprobs=0, prompt_logprobs=False, include_prompt=False)
    assert schema.field("prompt").type == pa.large_string()


def test_a_column_kept_twice_is_refused() -> None:
    kept = pa.schema([("a", pa.int8()), ("a", pa.int8())])
    with pytest.raises(InputRefused, match="'a' is there more than once"):
        output_schema(kept, statistics=[], top_logprobs=0, prompt_logprobs=False, include_prompt=False)


def test_every_column_has_a_meaning() -> None:
    assert list(MEANINGS) == list(COLUMNS)


@pytest.mark.parametrize("name", ["Text", "ROW_ID", "Prompt", "Token_Logprobs.list.element"])
def test_capitals_make_no_other_name(name: str) -> None:
    with pytest.raises(InputRefused, match="has the name of an output column, capitals aside"):
        output_schema(
            pa.schema([(name, pa.string())]), statistics=[], top_logprobs=0, prompt_logprobs=False, include_prompt=True
        )


def test_kept_columns_that_differ_in_capitals_are_refused() -> None:
    kept = pa.schema([("lang", pa.string()), ("Lang", pa.string())])
    with pytest.raises(InputRefused, match="'lang' and 'Lang' differ only in capitals"):
        output_schema(kept, statistics=[], top_logprobs=0, prompt_logprobs=False, include_prompt=True)


def test_a_map_is_kept_as_a_list_of_keys_and_values() -> None:
    pairs = pa.map_(pa.string(), pa.map_(pa.string(), pa.int8()))
    flat = pa.list_(pa.struct([("key", pa.string()), ("value", pa.int8())]))
    whole = pa.list_(pa.struct([("key", pa.string()), ("value", flat)]))
    assert kept_type(pa.struct([("m", pairs)])) == pa.struct([("m", whole)])
    assert kept_type(pa.large_list(pairs)) == pa.large_list(whole)
    array = pa.array([{"m": [("a", [("b", 1)])]}, None], pa.struct([("m", pairs)]))
    cast: Any = array.cast(kept_type(array.type))
    assert cast.to_pylist() == [
        {"m": [{"key": "a", "value": [{"key": "b", "value": 1}]}]},
        None,
    ]
