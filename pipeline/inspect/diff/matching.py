"""Matches the rows of two outputs by (row_id, sample_index), in whatever order and layout they are, in bounded memory.

As long as both are in step, batches are compared as they are read. From the first row on that is not, the rest of both is
divided among buckets on disk, and matched bucket by bucket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.inspect.diff.buckets import AT, bucket, bucket_count, bucket_folder, divide
from pipeline.inspect.diff.sides import Side

Pairs = Callable[[pa.RecordBatch, pa.RecordBatch], None]
"""Takes as many rows of `a` as of `b`: row i of one has the key of row i of the other."""


@dataclass(slots=True)
class Unmatched:
    """Rows of one output that the other lacks.

    Attributes:
        rows: How many.
        samples: How many of them have an id that the other has, with other samples.
        first: (row_id, sample_index) of some of them.
    """

    rows: int = 0
    samples: int = 0
    first: tuple[tuple[str, int], ...] = ()


@dataclass(slots=True)
class Matched:
    """How the rows of two outputs belong to each other.

    Attributes:
        only_a: Rows that only `a` has.
        only_b: Rows that only `b` has.
        same_order: Whether the rows that both have follow each other alike; None without such rows.
    """

    only_a: Unmatched
    only_b: Unmatched
    same_order: bool | None = None


SHOWN = 5
"""Most rows that only one has, of which the keys are kept."""


def match(a: Side, b: Side, schema: pa.Schema, on_pairs: Pairs, tick: Callable[[int], None]) -> Matched:
    """Match all rows.

    Args:
        a: One output.
        b: The other.
        schema: The columns to read, those of the key among them.
        on_pairs: Called with the matched rows.
        tick: Called from time to time with the number of rows that are matched.

    Raises:
        PlanRefused: If a part is damaged, or the rows have to be matched on disk, and it has no room.
    """
    one, other = (_Stream(side.read(schema.names, schema)) for side in (a, b))
    done, last = 0, None
    while (mine := one.peek()) is not None and (its := other.peek()) is not None:
        count = min(mine.num_rows, its.num_rows)
        mine, its = mine.slice(0, count), its.slice(0, count)
        together = _in_step(mine, its)
        if together:
            last = mine.column("row_id")[together - 1].as_py()
            on_pairs(mine.slice(0, together), its.slice(0, together))
            one.skip(together)
            other.skip(together)
            done += together
            tick(done)
        if together < count:
            return _on_disk(a, b, one, other, (done, last), on_pairs, tick)
    result = Matched(Unmatched(), Unmatched(), True if done else None)
    for stream, unmatched in ((one, result.only_a), (other, result.only_b)):
        for batch in stream.rest():
            _alone(unmatched, batch, {last})
    return result


class _Stream:
    """Record batches that can be taken in pieces of any size."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._head: pa.RecordBatch | None = None

    def peek(self) -> pa.RecordBatch | None:
        """Return the next rows, at least one; None at the end."""
        while self._head is None or not self._head.num_rows:
            self._head = next(self._batches, None)
            if self._head is None:
                return None
        return self._head

    def skip(self, rows: int) -> None:
        """Go on by so many of the rows that `peek` returned."""
        assert self._head is not None
        self._head = self._head.slice(rows)

    def rest(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows that are left."""
        while (batch := self.peek()) is not None:
            self.skip(batch.num_rows)
            yield batch


def _in_step(mine: Any, its: Any) -> int:
    """Return how many of the first rows have the same keys on both sides."""
    wrong = np.zeros(mine.num_rows, np.bool_)
    for name in ("row_id", "sample_index"):
        same = pc.fill_null(pc.equal(mine.column(name), its.column(name)), False)
        wrong |= ~same.to_numpy(zero_copy_only=False)
    return int(np.argmax(wrong)) if wrong.any() else len(wrong)


def _on_disk(
    a: Side,
    b: Side,
    one: _Stream,
    other: _Stream,
    before: tuple[int, Any],
    on_pairs: Pairs,
    tick: Callable[[int], None],
) -> Matched:
    """Match what is left of both by buckets; `before` is how many rows are matched, and the id of the last."""
    result = Matched(Unmatched(), Unmatched())
    done, last = before
    count = bucket_count(max(a.rows, b.rows), max(a.size, b.size))
    with bucket_folder(a.size + b.size + 8 * a.rows) as folder:
        divide(one.rest(), done, folder / "a", count)
        divide(other.rest(), done, folder / "b", count)
        # where each row of `a` stands in `b`; in a file, so that the system may take its memory back
        places = np.memmap(folder / "places", np.int64, "w+", shape=(max(1, a.rows),))
        places[:] = -1
        for number in range(count):
            pair = _joined(bucket(folder / "a", number), bucket(folder / "b", number), last, result)
            if pair is not None:
                mine, its = pair
                places[mine.column(AT).to_numpy()] = its.column(AT).to_numpy()
                for start in range(0, mine.num_rows, 1000):
                    on_pairs(_batch(mine, start), _batch(its, start))
                done += mine.num_rows
            tick(done)
        if done:
            result.same_order = _ascending(places)
        del places
    return result


def _joined(mine: Any, its: Any, last: Any, result: Matched) -> tuple[Any, Any] | None:
    """Return the rows of a bucket that both have, matched and in the order of `a`; count the others."""
    keys, its_keys = _keys(mine), _keys(its)
    there = {key: i for i, key in enumerate(its_keys)}
    found = [there.get(key, -1) for key in keys]
    left = [i for i, at in enumerate(found) if at >= 0]
    right = [at for at in found if at >= 0]
    if len(left) < len(keys):
        alone = [i for i, at in enumerate(found) if at < 0]
        _alone(result.only_a, mine.take(pa.array(alone, pa.int64())), {last, *(key[0] for key in its_keys)})
    if len(right) < len(its_keys):
        taken = set(right)
        alone = [i for i in range(len(its_keys)) if i not in taken]
        _alone(result.only_b, its.take(pa.array(alone, pa.int64())), {last, *(key[0] for key in keys)})
    if not left:
        return None
    return mine.take(pa.array(left, pa.int64())), its.take(pa.array(right, pa.int64()))


def _keys(rows: Any) -> list[tuple[Any, Any, int]]:
    """Return the keys of a bucket; a row that is there twice, in a damaged output, has a number of its own."""
    if rows is None:
        return []
    seen: Counter[tuple[Any, Any]] = Counter()
    keys = []
    for pair in zip(rows.column("row_id").to_pylist(), rows.column("sample_index").to_pylist(), strict=True):
        keys.append((*pair, seen[pair]))
        seen[pair] += 1
    return keys


def _alone(unmatched: Unmatched, rows: Any, ids: Set[Any]) -> None:
    row_ids, samples = rows.column("row_id").to_pylist(), rows.column("sample_index").to_pylist()
    unmatched.rows += rows.num_rows
    unmatched.samples += sum(row_id in ids for row_id in row_ids)
    if len(unmatched.first) < SHOWN:
        some = zip(row_ids[:SHOWN], samples[:SHOWN], strict=True)
        unmatched.first = (*unmatched.first, *some)[:SHOWN]


def _batch(rows: pa.Table, start: int) -> pa.RecordBatch:
    (batch,) = rows.slice(start, 1000).combine_chunks().to_batches()
    return batch


def _ascending(places: Any, chunk: int = 1 << 20) -> bool:
    """Whether the places that are there grow; -1 stands for a row that has none."""
    last = -1
    for start in range(0, len(places), chunk):
        found = np.asarray(places[start : start + chunk])
        found = found[found >= 0]
        if len(found) and (found[0] < last or (np.diff(found) < 0).any()):
            return False
        last = int(found[-1]) if len(found) else last
    return True
