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
class Slot:
    """An output row before the columns are built: exactly one of `done` and `error` is set."""

    position: int
    sample: int
    row: PromptRow
    done: Completion | None
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
    slots = _slots(rows, completions)
    chunks = [chunk for i in range(0, len(slots), CHUNK) for chunk in _build_chunks(schema, slots[i : i + CHUNK], kept)]
    return pa.concat_tables(chunks) if chunks else schema.empty_table()


def _slots(rows: Sequence[PromptRow], completions: Mapping[tuple[int, int], Completion]) -> list[Slot]:
    slots: list[Slot] = []
    for position, row in enumerate(rows):
        for sample in range(row.sampling.n):
            completion, error = None, row.error
            if error is None:
                completion = completions.get((position, sample))
                if completion is None:
                    raise RuntimeError(f"no completion for position {position} (row {row.row_id!r}), sample {sample}")
                error = completion.error
            slots.append(Slot(position, sample, row, None if error else completion, error))
    return slots


def _build_chunks(schema: pa.Schema, slots: Sequence[Slot], kept: pa.Table) -> list[pa.Table]:
    """Return the rows in one table, or in several if a column exceeds one array, as texts above 2 GiB do."""
    try:
        return [_build_chunk(schema, slots, kept)]
    except (pa.ArrowInvalid, pa.ArrowCapacityError):
        if len(slots) < 2:
            raise
        half = len(slots) // 2
        return [*_build_chunks(schema, slots[:half], kept), *_build_chunks(schema, slots[half:], kept)]


def _build_chunk(schema: pa.Schema, slots: Sequence[Slot], kept: pa.Table) -> pa.Table:
    positions = pa.array([s.position for s in slots], pa.int64())
    arrays: list[Any] = [
        valid_kept(kept.column(f.name).take(positions), f.type)
        if f.name in kept.column_names
        else _BUILDERS[f.name](slots)
        for f in schema
    ]
    return pa.table(arrays, schema=schema)


def _statistic(slots: Sequence[Slot], name: str) -> list[Any]:
    """Return the arrays of one statistic, [G] or [G, k], checked to have one entry per generated token; None on error."""
    arrays = [None if s.done is None else s.done.statistics.get(name) for s in slots]
    return _aligned(slots, name, arrays, lambda done: len(done.token_ids))


def _prompt_logprobs(slots: Sequence[Slot]) -> list[Any]:
    arrays = [None if s.done is None else s.done.prompt_token_logprobs for s in slots]
    return _aligned(slots, "prompt_token_logprobs", arrays, lambda done: len(done.request.prompt_token_ids))


def _aligned(slots: Sequence[Slot], name: str, arrays: list[Any], length: Callable[[Completion], int]) -> list[Any]:
    for slot, array in zip(slots, arrays, strict=True):
        if slot.done is not None and (array is None or len(array) != length(slot.done)):
            have = "no" if array is None else len(array)
            raise RuntimeError(
                f"{name} of row {slot.row.row_id!r}, sample {slot.sample}: {have} values for {length(slot.done)} tokens"
            )
    return arrays


def _cumulative(slots: Sequence[Slot]) -> pa.Array[Any]:
    """Return the sums of the log-probabilities; null if the engine measures none.

    They are float64, so that a long text's sum keeps the digits of its terms.
    """
    measures = [s.done is not None and "token_logprobs" in s.done.statistics for s in slots]
    arrays = iter(_statistic([s for s, measured in zip(slots, measures, strict=True) if measured], "token_logprobs"))
    sums = [float(np.asarray(next(arrays), np.float32).sum(dtype=np.float64)) if m else None for m in measures]
    return pa.array(sums, pa.float64())


def _messages(slots: Sequence[Slot]) -> pa.Array[Any]:
    """Return the conversations, each with its answer appended, or with its last message continued."""
    told = [None if s.done is None else _answered(s.row, s.done.text or "") for s in slots]
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


def _finish_reasons(slots: Sequence[Slot]) -> pa.Array[Any]:
    names = [reason.value for reason in FinishReason]
    codes = [names.index(FinishReason.ERROR if s.done is None else s.done.finish_reason) for s in slots]
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), pa.array(names, pa.string()))


def _ints(values: Sequence[int]) -> pa.Array[Any]:
    return pa.array(values, pa.int32())


def _statistic_builder(name: str) -> Callable[[Sequence[Slot]], Any]:
    """Return the function that builds the column of one statistic, by its type in the schema."""
    dtype = np.dtype(pa.field("", COLUMNS[name]).type.field(0).type.to_pandas_dtype())
    return lambda slots: plain_lists(_statistic(slots, name), dtype)


_BUILDERS: dict[str, Callable[[Sequence[Slot]], Any]] = {
    "row_id": lambda slots: strings([s.row.row_id for s in slots]),
    "sample_index": lambda slots: _ints([s.sample for s in slots]),
    "prompt": lambda slots: strings([s.row.prompt for s in slots]),
    "text": lambda slots: strings([s.done.text if s.done else None for s in slots]),
    "messages": _messages,
    "finish_reason": _finish_reasons,
    "stop_reason": lambda slots: strings([s.done.stop_reason if s.done else None for s in slots]),
    "prompt_tokens": lambda slots: _ints([s.row.prompt_tokens for s in slots]),
    "completion_tokens": lambda slots: _ints([len(s.done.token_ids) if s.done else 0 for s in slots]),
    "cumulative_logprob": _cumulative,
    "error_code": lambda slots: strings([s.error.code.value if s.error else None for s in slots]),
    "error_message": lambda slots: strings([s.error.message if s.error else None for s in slots]),
    "token_ids": lambda slots: plain_lists([s.done.token_ids if s.done else None for s in slots], np.int32),
    **{name: _statistic_builder(name) for name in (s.column for s in STATISTICS.values())},
    "top_token_ids": lambda slots: nested_lists(_statistic(slots, "top_token_ids"), np.int32),
    "top_token_logprobs": lambda slots: nested_lists(_statistic(slots, "top_token_logprobs"), np.float32),
    "prompt_token_ids": lambda slots: plain_lists(
        [s.row.prompt_token_ids if s.done else None for s in slots], np.int32
    ),
    "prompt_token_logprobs": lambda slots: plain_lists(_prompt_logprobs(slots), np.float32, nan_is_null=True),
}
