"""Rows, completions and plans for the tests of this folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.output.config import OutputConfig
from pipeline.output.part import commit_part, encode_part, part_metadata, part_name
from pipeline.output.record.counts import count_rows
from pipeline.output.record.manifest import Manifest, assemble, put_manifest
from pipeline.output.schema import output_schema
from pipeline.output.table import build_table
from pipeline.planning.plan import InputFile, Plan, make_plan
from pipeline.store.base import Store
from pipeline.types import Completion, ErrorCode, FinishReason, PromptRow, RowError, SamplingParams, ShardReport

KEPT = pa.schema([("topic", pa.string()), ("tags", pa.list_(pa.string()))])
FULL = output_schema(
    KEPT, statistics=["logprob", "entropy", "rank"], top_logprobs=3, prompt_logprobs=True, include_prompt=True
)


def row(position: int, *, tokens: int = 3, n: int = 1, error: RowError | None = None) -> PromptRow:
    ids = () if error else tuple(range(position, position + tokens))
    return PromptRow(f"row-{position}", f"prompt {position}", ids, SamplingParams(n=n), error)


def completion(row: PromptRow, sample: int, *, length: int = 5, k: int = 3, seed: int = 0) -> Completion:
    rng = np.random.default_rng([seed, sample, length])
    prompt = -rng.random(len(row.prompt_token_ids), np.float32)
    prompt[:1] = np.nan
    statistics: Mapping[str, Any] = {
        "token_logprobs": -rng.gamma(1.5, 1.6, length).astype(np.float32),
        "token_entropies": rng.random(length, np.float32),
        "token_ranks": rng.integers(1, 50, length).astype(np.int32),
        "top_token_ids": rng.integers(0, 50_257, (length, k)).astype(np.int32),
        "top_token_logprobs": -rng.random((length, k), np.float32),
    }
    ids = tuple(rng.integers(0, 50_257, length).tolist())
    request = row.requests()[sample]
    reason = FinishReason.STOP if length % 2 else FinishReason.LENGTH
    stop = "\n" if length % 2 else None
    return Completion(request, ids, f"text {sample} é", reason, stop, statistics, prompt)


def shard(count: int, n: int = 2) -> tuple[list[PromptRow], dict[tuple[int, int], Completion], pa.Table]:
    """Every fifth row is an error; the kept columns have nulls."""
    bad = RowError(ErrorCode.EMPTY_PROMPT, "the prompt is empty")
    rows = [row(i, n=n, error=bad if i % 5 == 4 else None) for i in range(count)]
    done = {
        (i, s): completion(r, s, length=i % 7, seed=i) for i, r in enumerate(rows) if r.error is None for s in range(n)
    }
    kept = pa.table(
        [[None if i % 3 == 0 else f"t{i}" for i in range(count)], [["a"] * (i % 3) for i in range(count)]], schema=KEPT
    )
    return rows, done, kept


def plan(rows: int = 10, rows_per_shard: int = 4, **options: Any) -> Plan:
    file = InputFile("in/a.parquet", "/somewhere/in/a.parquet", 100, rows, "ab" * 32)
    return make_plan([file], {"sampling": {"seed": 0, "stop": ["x"]}, **options}, rows_per_shard=rows_per_shard)


def commit(store: Store, plan: Plan, index: int, attempt: str = "1") -> ShardReport:
    """Do shard `index` of a plan, as a worker would."""
    rows, done, kept = shard(plan.shard(index).rows)
    table = build_table(FULL, rows, done, kept)
    counts = count_rows(rows, table)
    name = part_name(plan.plan8, index, plan.shard_count)
    data = encode_part(table, OutputConfig(path="out"), part_metadata(plan.plan_id, index, attempt, counts))
    mine = commit_part(store, name, data, plan.plan_id)
    sha256 = hashlib.sha256(data).hexdigest()
    return ShardReport(
        index, name, counts.rows, counts.completions, counts.prompt_tokens, counts.completion_tokens, counts.errors,
        sha256, already_there=not mine, finish_reasons=counts.finish_reasons, lengths=counts.lengths,
        clamped_rows=counts.clamped_rows, cut_off=counts.cut_off,
    )  # fmt: skip


def finish(
    store: Store, plan: Plan, reports: Mapping[int, ShardReport], timings: Mapping[str, float], environment: Mapping[str, Any]
) -> Manifest:  # fmt: skip
    """Check that the output is complete, and put its manifest."""
    return put_manifest(store, assemble(store, plan, reports, timings, environment))
