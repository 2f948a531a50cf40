"""Generates some rows of an output again on this machine, and compares every column bit for bit."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ModelRefused
from pipeline.inspect.identity import differences
from pipeline.inspect.output import Output
from pipeline.inspect.verify.findings import Finding
from pipeline.output.part import part_name
from pipeline.output.record.environment import environment, identity
from pipeline.planning.plan import Plan
from pipeline.types import ErrorCode, Segment, Shard, Task
from pipeline.wording import brief, one_line
from pipeline.work.job import Job
from pipeline.work.worker import Worker

_BLAMED = (ErrorCode.WORKER_CRASH, ErrorCode.TIMEOUT)
_Key = tuple[str, int]


@dataclass(slots=True)
class Replayed:
    """The result of a replay.

    Attributes:
        equal: Number of output rows that are equal.
        different: Number of rows that differ although this machine promises the same bits.
        untold: Number of rows that differ where this machine does not promise the same bits.
        doubts: The reasons why it does not.
        findings: One finding per row that differs.
    """

    equal: int = 0
    different: int = 0
    untold: int = 0
    doubts: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the line for the user."""
        total = self.equal + self.different + self.untold
        text = f"replay: {self.equal:,} of {total:,} output rows are the same, bit for bit"
        if self.untold:
            text += f"; whether the other {self.untold:,} are right cannot be told"
        if self.doubts:
            text += f"; this machine does not promise the same bits ({one_line('; '.join(self.doubts), 400)})"
        return text


def choose(plan: Plan, shards: Sequence[int], count: int) -> list[tuple[int, Segment]]:
    """Choose `count` input rows of `shards` at random, always the same for the same plan, in order.

    Args:
        plan: The plan.
        shards: Indices in ascending order.
        count: How many; all if there are fewer.

    Returns:
        (shard, the row as a segment of one) each.
    """
    size = plan.rows_per_shard  # all shards have that many except the last
    total = sum(plan.shard(index).rows for index in shards)
    places = sorted(random.Random(plan.plan_id).sample(range(total), min(count, total)))
    return [(shards[place // size], plan.shard(shards[place // size]).row(place % size)) for place in places]


def without_blamed(output: Output, plan: Plan, chosen: Sequence[tuple[int, Segment]]) -> list[tuple[int, Segment]]:
    """Leave out rows that killed or hung a replica: they would do that here, too."""
    places: dict[int, set[Segment]] = {}
    for index in {shard for shard, _ in chosen}:
        name = part_name(plan.plan8, index, plan.shard_count)
        rows = pa.Table.from_batches(output.batches(name, ["sample_index", "error_code"]))
        samples, codes = (rows.column(name).to_pylist() for name in ("sample_index", "error_code"))
        first = [code for sample, code in zip(samples, codes, strict=True) if sample == 0]
        places[index] = {plan.shard(index).row(row) for row, code in enumerate(first) if code in _BLAMED}
    return [(shard, row) for shard, row in chosen if row not in places[shard]]


def replay(
    output: Output, job: Job, chosen: Sequence[tuple[int, Segment]], environments: Mapping[int, Mapping[str, Any]]
) -> Replayed:
    """Generate the chosen rows again and compare them with those in the output.

    Args:
        output: The output.
        job: The job that made it, with the plan that the folder holds.
        chosen: What `choose` returned.
        environments: Shard → the facts about where its part was made.

    Raises:
        PromptmillError: If the model or the input cannot be used here.
    """
    result = Replayed()
    if not chosen:
        return result
    made, here = _generate(job, [segment for _, segment in chosen], environments[chosen[0][0]])
    by_shard: dict[int, list[int]] = {}
    for row, (shard, _) in enumerate(chosen):
        by_shard.setdefault(shard, []).append(row)
    rows = _by_input_row(made)
    for shard, places in by_shard.items():
        doubts = differences(environments[shard], here)
        result.doubts += [doubt for doubt in doubts if doubt not in result.doubts]
        name = part_name(job.plan.plan8, shard, job.plan.shard_count)
        for wrong in _compared(output, name, pa.concat_tables([rows[place] for place in places])):
            if wrong is None:
                result.equal += 1
            elif doubts:
                result.untold += 1
            else:
                result.different += 1
                result.findings.append(wrong)
    return result


def _generate(job: Job, segments: Sequence[Segment], there: Mapping[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
    """Make one part of the rows, in a temporary folder; return its rows and the facts about this machine and engine."""
    threads = identity(there).get("threads")  # there where it counts
    with TemporaryDirectory(prefix="promptmill-replay-") as folder:
        elsewhere = replace(job, output=replace(job.output, path=folder, allow_unsafe_store=False))
        try:
            worker = Worker(elsewhere, threads=threads if isinstance(threads, int) else None)
        except (RuntimeError, AssertionError) as error:
            if job.device == "cpu":
                raise
            raise ModelRefused(
                f"the output was made on a {job.device} device, which is not available here: {error}"
            ) from error
        try:
            report = worker.submit(Task(Shard(0, 1, tuple(segments)))).result()
            assert report is not None, "only a trial has none"
            facts = {**environment(), **worker.facts}
        finally:
            worker.close()
        return pq.read_table(Path(folder) / report.file, memory_map=False), facts


def _by_input_row(table: pa.Table) -> list[pa.Table]:
    """Return one table of output rows per input row."""
    samples: Any = table.column("sample_index").to_pylist()
    starts = [i for i, sample in enumerate(samples) if sample == 0]
    return [table.slice(start, stop - start) for start, stop in zip(starts, [*starts[1:], len(samples)], strict=True)]


def _compared(output: Output, name: str, made: pa.Table) -> Iterator[Finding | None]:
    """Compare each row with the one in the part; yield a finding, or None if they are equal."""
    there = {key: (table, i) for table, i, key in _find(output, name, made.column("row_id").unique())}
    for i, (row_id, sample) in enumerate(_keys(made)):
        place = f"row_id {brief(row_id)}, sample {sample}"
        if (row_id, sample) not in there:
            yield Finding(name, "was generated by the replay and is not in the part", place=place)
            continue
        found, at = there[row_id, sample]
        other = [c for c in made.column_names if _bits(found.column(c), at) != _bits(made.column(c), i)]
        if not other:
            yield None
        else:
            shown = _difference(found.column(other[0])[at].as_py(), made.column(other[0])[i].as_py())
            what = f"{', '.join(other)} differ from what this machine generates; {other[0]}: {shown}"
            yield Finding(name, what, place=place)


def _find(output: Output, name: str, row_ids: Any) -> Iterator[tuple[Any, int, _Key]]:
    """Yield the output rows of a part that have one of the ids."""
    for batch in output.batches(name):
        rows: Any = batch
        chosen = rows.filter(pc.is_in(rows.column("row_id"), value_set=row_ids))
        for i, key in enumerate(_keys(chosen)):
            yield chosen, i, key


def _keys(rows: Any) -> list[_Key]:
    return list(zip(rows.column("row_id").to_pylist(), rows.column("sample_index").to_pylist(), strict=True))


def _bits(column: Any, row: int) -> bytes:
    """Return one value of a column as the bytes of an Arrow message, which are equal exactly for equal bits (NaN included)."""
    value = column.take(pa.array([row]))
    value = value.combine_chunks() if isinstance(value, pa.ChunkedArray) else value
    if pa.types.is_dictionary(value.type):
        value = value.cast(value.type.value_type)
    return bytes(pa.record_batch([value], ["value"]).serialize())


def _difference(old: Any, new: Any) -> str:
    """Describe the first difference of two values."""
    if isinstance(old, list) and isinstance(new, list):
        for i, (before, after) in enumerate(zip(old, new, strict=False)):
            if before != after:
                return f"{brief(before)} → {brief(after)} at token {i}"
        return f"{len(old)} → {len(new)} values"
    return f"{brief(old)} → {brief(new)}"
