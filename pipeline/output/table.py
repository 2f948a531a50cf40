"""Makes one Arrow table of a shard's rows and their completions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.output.columns import lists, nested_lists, plain_lists, strings, valid_kept
from pipeline.output.schema import COLUMNS
from pipeline.statistics import STATISTICS
from pipeline.types import Completion, FinishReason, PromptRow, RowError

# Rows built at once: the offsets of an Arrow list have 32 bits, and a part may have more values than that.
CHUNK = 10_000


@dataclass(frozen=True, slots=True)
class OutputRow:
    """An output row before the columns are built: exactly one of `completion` and `error` is set."""

    position: int
    sample: int
    row: PromptRow
    completion: Completion | None
    error: RowError | None


def build_table(
    schema: pa.Schema,
    rows: Sequence[PromptRow],
    completions: Mapping[tuple[int, int], Completion],
    kept: pa.Table,
) -> pa.Table:
    """Return the output rows of a shard, ordered by position and then by sample.

    A row with an error has its n output rows too, with `finish_reason = "error"` and neither text nor lists; so has a
    completion with an error. Kept strings that are not UTF-8 become null, and their rows become errors, because no reader
    could open a file with them.

    Args:
        schema: What `output_schema` returned.
        rows: The shard's input rows, in their order.
        completions: (position in `rows`, sample index) → completion. `statistics` holds arrays aligned with `token_ids`:
            `token_logprobs` float32 [G], if the engine measures it, and those whose column is in the schema:
            `token_entropies` float32 [G], `token_ranks` int32 [G], `top_token_ids` int32 [G, k], `top_token_logprobs`
            float32 [G, k].
        kept: The kept columns, one row per input row.

    Raises:
        RuntimeError: If a completion is missing, or an array is not aligned with the tokens; that is a bug of the caller.
    """
    if kept.num_columns and kept.num_rows != len(rows):
        raise RuntimeError(f"{kept.num_rows} rows of kept columns for {len(rows)} input rows")
    outputs = _output_rows(rows, completions)
    chunks = [
        chunk for i in range(0, len(outputs), CHUNK) for chunk in _build_chunks(schema, outputs[i : i + CHUNK], kept)
    ]
    return pa.concat_tables(chunks) if chunks else schema.empty_table()


def _output_rows(rows: Sequence[PromptRow], completions: Mapping[tuple[int, int], Completion]) -> list[OutputRow]:
    outputs: list[OutputRow] = []
    for position, row in enumerate(rows):
        for sample in range(row.sampling.n):
            completion, error = None, row.error
            if error is None:
                completion = completions.get((position, sample))
                if completion is None:
                    raise RuntimeError(f"no completion for position {position} (row {row.row_id!r}), sample {sample}")
                error = completion.error
            outputs.append(OutputRow(position, sample, row, None if error else completion, error))
    return outputs


def _build_chunks(schema: pa.Schema, outputs: Sequence[OutputRow], kept: pa.Table) -> list[pa.Table]:
    """Return the rows in one table, or in several if a column exceeds one array, as texts above 2 GiB do."""
    try:
        return [_build_chunk(schema, outputs, kept)]
    except (pa.ArrowInvalid, pa.ArrowCapacityError):
        if len(outputs) < 2:
            raise
        half = len(outputs) // 2
        return [*_build_chunks(schema, outputs[:half], kept), *_build_chunks(schema, outputs[half:], kept)]


def _build_chunk(schema: pa.Schema, outputs: Sequence[OutputRow], kept: pa.Table) -> pa.Table:
    positions = pa.array([s.position for s in outputs], pa.int64())
    arrays: list[Any] = [
        valid_kept(kept.column(f.name).take(positions), f.type)
        if f.name in kept.column_names
        else _BUILDERS[f.name](outputs)
        for f in schema
    ]
    return pa.table(arrays, schema=schema)


def _statistic(outputs: Sequence[OutputRow], name: str) -> list[Any]:
    """Return the arrays of one statistic, [G] or [G, k], checked to have one entry per generated token; None on error."""
    arrays = [None if s.completion is None else s.completion.statistics.get(name) for s in outputs]
    return _aligned(outputs, name, arrays, lambda done: len(done.token_ids))


def _prompt_logprobs(outputs: Sequence[OutputRow]) -> list[Any]:
    arrays = [None if s.completion is None else s.completion.prompt_token_logprobs for s in outputs]
    return _aligned(outputs, "prompt_token_logprobs", arrays, lambda done: len(done.request.prompt_token_ids))


def _aligned(
    outputs: Sequence[OutputRow], name: str, arrays: list[Any], length: Callable[[Completion], int]
) -> list[Any]:
    for output, array in zip(outputs, arrays, strict=True):
        if output.completion is not None and (array is None or len(array) != length(output.completion)):
            have = "no" if array is None else len(array)
            raise RuntimeError(
                f"{name} of row {output.row.row_id!r}, sample {output.sample}: {have} values for "
                f"{length(output.completion)} tokens"
            )
    return arrays


def _cumulative(outputs: Sequence[OutputRow]) -> pa.Array[Any]:
    """Return the sums of the log-probabilities; null if the engine measures none.

    They are float64, so that a long text's sum keeps the digits of its terms.
    """
    measures = [s.completion is not None and "token_logprobs" in s.completion.statistics for s in outputs]
    arrays = iter(_statistic([s for s, measured in zip(outputs, measures, strict=True) if measured], "token_logprobs"))
    sums = [float(np.asarray(next(arrays), np.float32).sum(dtype=np.float64)) if m else None for m in measures]
    return pa.array(sums, pa.float64())


def _messages(outputs: Sequence[OutputRow]) -> pa.Array[Any]:
    """Return the conversations, each with its answer appended, or with its last message continued."""
    told = [None if s.completion is None else _answered(s.row, s.completion.text or "") for s in outputs]
    flat = [pair for pairs in told if pairs is not None for pair in pairs]
    roles, contents = (strings([pair[i] for pair in flat]) for i in (0, 1))
    values = pa.StructArray.from_arrays([roles, contents], ["role", "content"])
    return lists([0 if pairs is None else len(pairs) for pairs in told], values, told)


def _answered(row: PromptRow, text: str) -> list[tuple[str, str | None]]:
    pairs = [(str(message["role"]), message.get("content")) for message in row.messages or ()]
    if row.continues and pairs:
        role, content = pairs.pop()
        return [*pairs, (role, (content or "") + text)]
    return [*pairs, ("assistant", text)]


def _finish_reasons(outputs: Sequence[OutputRow]) -> pa.Array[Any]:
    names = [reason.value for reason in FinishReason]
    codes = [names.index(FinishReason.ERROR if s.completion is None else s.completion.finish_reason) for s in outputs]
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), pa.array(names, pa.string()))


def _ints(values: Sequence[int]) -> pa.Array[Any]:
    return pa.array(values, pa.int32())


def _statistic_builder(name: str) -> Callable[[Sequence[OutputRow]], Any]:
    """Return the function that builds the column of one statistic, by its type in the schema."""
    dtype = np.dtype(pa.field("", COLUMNS[name]).type.field(0).type.to_pandas_dtype())
    return lambda outputs: plain_lists(_statistic(outputs, name), dtype)


_BUILDERS: dict[str, Callable[[Sequence[OutputRow]], Any]] = {
    "row_id": lambda outputs: strings([s.row.row_id for s in outputs]),
    "sample_index": lambda outputs: _ints([s.sample for s in outputs]),
    "prompt": lambda outputs: strings([s.row.prompt for s in outputs]),
    "text": lambda outputs: strings([s.completion.text if s.completion else None for s in outputs]),
    "messages": _messages,
    "finish_reason": _finish_reasons,
    "stop_reason": lambda outputs: strings([s.completion.stop_reason if s.completion else None for s in outputs]),
    "prompt_tokens": lambda outputs: _ints([s.row.prompt_tokens for s in outputs]),
    "completion_tokens": lambda outputs: _ints([len(s.completion.token_ids) if s.completion else 0 for s in outputs]),
    "cumulative_logprob": _cumulative,
    "error_code": lambda outputs: strings([s.error.code.value if s.error else None for s in outputs]),
    "error_message": lambda outputs: strings([s.error.message if s.error else None for s in outputs]),
    "token_ids": lambda outputs: plain_lists(
        [s.completion.token_ids if s.completion else None for s in outputs], np.int32
    ),
    **{name: _statistic_builder(name) for name in (s.column for s in STATISTICS.values())},
    "top_token_ids": lambda outputs: nested_lists(_statistic(outputs, "top_token_ids"), np.int32),
    "top_token_logprobs": lambda outputs: nested_lists(_statistic(outputs, "top_token_logprobs"), np.float32),
    "prompt_token_ids": lambda outputs: plain_lists(
        [s.row.prompt_token_ids if s.completion else None for s in outputs], np.int32
    ),
    "prompt_token_logprobs": lambda outputs: plain_lists(_prompt_logprobs(outputs), np.float32, nan_is_null=True),
}
