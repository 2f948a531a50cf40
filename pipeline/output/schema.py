"""The columns of an output: their names, types, order and meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from pipeline.errors import InputRefused
from pipeline.statistics import STATISTICS

_INTS, _FLOATS = pa.list_(pa.int32()), pa.list_(pa.float32())

# All possible columns, in order; kept columns come after `sample_index`.
COLUMNS: dict[str, pa.DataType] = {
    "row_id": pa.string(),
    "sample_index": pa.int32(),
    "prompt": pa.string(),
    "text": pa.string(),
    "messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
    "finish_reason": pa.dictionary(pa.int8(), pa.string()),
    "stop_reason": pa.string(),
    "prompt_tokens": pa.int32(),
    "completion_tokens": pa.int32(),
    "cumulative_logprob": pa.float64(),
    "error_code": pa.string(),
    "error_message": pa.string(),
    "token_ids": _INTS,
    **{s.column: _INTS if s.whole else _FLOATS for s in STATISTICS.values()},
    "top_token_ids": pa.list_(_INTS),
    "top_token_logprobs": pa.list_(_FLOATS),
    "prompt_token_ids": _INTS,
    "prompt_token_logprobs": _FLOATS,
}

MEANINGS = {
    "row_id": "the id column's value, or the input file and the row's number in it",
    "sample_index": "0 to n-1: which of the row's samples",
    "prompt": "the rendered prompt",
    "text": "the generated text, without the prompt and without the stop string; null on error",
    "messages": "role and content of the conversation's messages, the generated one last; null on error",
    "finish_reason": "`stop`, `length` or `error`",
    "stop_reason": "the stop string or token that ended the text, else null",
    "prompt_tokens": "number of tokens of the prompt",
    "completion_tokens": "number of generated tokens",
    "cumulative_logprob": "sum of the generated tokens' log-probabilities, nats",
    "error_code": "null unless `finish_reason` is `error`",
    "error_message": "what was wrong, human-readable",
    "token_ids": "generated token ids, the ending token included when it was generated",
    **{s.column: s.meaning for s in STATISTICS.values()},
    "top_token_ids": "the k most likely tokens at each position",
    "top_token_logprobs": "their log-probabilities, nats",
    "prompt_token_ids": "token ids of the prompt",
    "prompt_token_logprobs": "log-probability of each prompt token, nats; the first has none: null",
}

_WITHOUT = {"prompt": " or set output.include_prompt=false", "messages": " or set output.messages=false"}


def output_schema(
    kept: pa.Schema, *, statistics: Sequence[str], top_logprobs: int, prompt_logprobs: bool, include_prompt: bool,
    messages: bool = False,
) -> pa.Schema:  # fmt: skip
    """Return the schema of the output's parts.

    Args:
        kept: The input columns that are copied to the output; their types stay, except maps; their metadata is dropped.
        statistics: Which of `STATISTICS` have a column.
        top_logprobs: How many of the most likely tokens are written per position; 0: no such columns.
        prompt_logprobs: Whether the prompt's tokens and their log-probabilities are written.
        include_prompt: Whether the rendered prompt is written.
        messages: Whether conversations are written with their answers.

    Raises:
        InputRefused: If a kept column has the name of an output column, or two have the same name, capitals aside.
    """
    left_out = {s.column for s in STATISTICS.values() if s.name not in statistics}
    if not top_logprobs:
        left_out |= {"top_token_ids", "top_token_logprobs"}
    if not prompt_logprobs:
        left_out |= {"prompt_token_ids", "prompt_token_logprobs"}
    if not include_prompt:
        left_out.add("prompt")
    if not messages:
        left_out.add("messages")
    return with_kept({name: kind for name, kind in COLUMNS.items() if name not in left_out}, kept)


def with_kept(columns: Mapping[str, pa.DataType], kept: pa.Schema) -> pa.Schema:
    """Return the schema of parts with these columns, of which the first two are `row_id` and `sample_index`.

    Args:
        columns: The recipe's columns, in order.
        kept: The input columns that are copied to the output; they come after the first two.

    Raises:
        InputRefused: If a kept column has the name of an output column, or two have the same name, capitals aside.
    """
    _check_kept(kept, columns)
    ours = [pa.field(name, kind) for name, kind in columns.items()]
    copied = [pa.field(f.name, kept_type(f.type)) for f in kept]
    return pa.schema([*ours[:2], *copied, *ours[2:]])


def _check_kept(kept: pa.Schema, columns: Mapping[str, pa.DataType]) -> None:
    # Our names are reserved even if their column is left out, so that readers of an output can rely on them.
    # Only `prompt` and `messages` become free, because most inputs use these names.
    taken = {*columns, *COLUMNS.keys() - {"prompt", "messages"}}
    seen: dict[str, str] = {}
    for name in kept.names:
        # SQL ignores capitals in names: DuckDB would return the input's `Text` for a query of `text`.
        plain = name.casefold()
        # Parquet names the leaf of a list column `token_logprobs.list.element`; no other column may be called that.
        if plain in taken or plain.partition(".list.")[0] in taken:
            hint = _WITHOUT.get(plain, "")
            aside = "" if name == plain else ", capitals aside"
            raise InputRefused(
                f"kept column {name!r} has the name of an output column{aside};"
                f" rename it in the input, leave it out of source.keep_columns{hint}"
            )
        if (other := seen.setdefault(plain, name)) != name:
            raise InputRefused(
                f"kept columns {other!r} and {name!r} differ only in capitals; rename one of them in the input"
            )
    if len(set(kept.names)) < len(kept.names):
        twice = next(n for n in kept.names if kept.names.count(n) > 1)
        raise InputRefused(
            f"kept column {twice!r} is there more than once; name each column once in source.keep_columns"
        )


def kept_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which a kept column is written: a map becomes a list of keys and values, which all readers open."""
    types = pa.types
    if types.is_map(kind):
        item = pa.struct([("key", kept_type(kind.key_type)), ("value", kept_type(kind.item_type))])
        return pa.list_(item)
    if types.is_struct(kind):
        return pa.struct([f.with_type(kept_type(f.type)) for f in kind])
    if types.is_list(kind) and not isinstance(kind, pa.BaseExtensionType):
        return pa.list_(kind.value_field.with_type(kept_type(kind.value_type)))
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(kept_type(kind.value_type)))
    return kind


def spelled(kind: pa.DataType) -> str:
    """Return a type's common name."""
    if pa.types.is_list(kind):
        return f"list<{spelled(kind.value_type)}>"
    if pa.types.is_dictionary(kind):
        return f"dictionary({spelled(kind.value_type)})"
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))
