"""How soon a resumed job is at work, and in how much memory, when most of its parts are there; the store is made up.

    python -m benchmarks.resume [COMMITTED] [SHARDS]

It does what a driver does between its plan and its first task: claim the plan, look for a manifest, list what is committed,
claim a shard. What Python's modules take is shown apart. Then the time of a further shard, from its claim to its commit.
"""

from __future__ import annotations

import io
import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from pipeline.output.folder import OutputFolder
from pipeline.output.part import part_name
from pipeline.planning.plan import InputFile, make_plan
from pipeline.run.claims import Claims
from pipeline.run.monitor import Monitor
from pipeline.run.suspects import Suspects
from pipeline.run.work import Work
from pipeline.store.base import StoredFile

ROWS_PER_SHARD = 1000
MEASURED = 2000
"""Shards over which the time of one is taken."""


@dataclass
class MemoryStore:
    """Files in memory; those of a part are a size only."""

    files: dict[str, bytes] = field(default_factory=dict)

    def probe(self) -> None:
        """It has put-if-absent."""

    def put_if_absent(self, name: str, data: bytes | memoryview) -> bool:
        """See `Store`."""
        if name in self.files:
            return False
        self.files[name] = bytes(data)
        return True

    def put(self, name: str, data: bytes | memoryview) -> None:
        """See `Store`."""
        self.files[name] = bytes(data)

    def get(self, name: str) -> bytes:
        """See `Store`."""
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]

    def get_tail(self, name: str, n: int) -> bytes:
        """See `Store`."""
        return self.get(name)[-n:] if n else b""

    def open(self, name: str) -> BinaryIO:
        """See `Store`."""
        return cast(BinaryIO, io.BytesIO(self.get(name)))

    def size(self, name: str) -> int:
        """See `Store`."""
        return len(self.get(name))

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """See `Store`."""
        return iter([StoredFile(n, len(d), 0.0) for n, d in sorted(self.files.items()) if n.startswith(prefix)])

    def delete(self, name: str) -> None:
        """See `Store`."""
        self.files.pop(name, None)

    def sweep(self, older_than_seconds: float) -> int:
        """See `Store`."""
        return 0


def main() -> None:
    """Measure, and print one JSON line: seconds, and the most memory that the process held in MB."""
    committed, shards = (int(word) for word in [*sys.argv[1:], "100000", "200000"][:2])
    file = InputFile("in.parquet", "/in.parquet", 1, shards * ROWS_PER_SHARD, "0" * 64)
    plan = make_plan([file], {"seed": 1}, rows_per_shard=ROWS_PER_SHARD)
    store = MemoryStore({part_name(plan.plan8, index, shards): b"" for index in range(committed)})
    before, began = _peak(), time.perf_counter()
    folder = OutputFolder(store)
    plan = folder.claim_plan(plan)
    assert folder.finished(plan) is None
    there = folder.committed(plan)
    monitor = Monitor(plan, there, 1)
    claims = Claims(store, "me")
    claims.beat()
    work = Work(
        plan, [i for i in range(plan.shard_count) if i not in there], claims, Suspects(store),
        lambda index: folder.is_committed(plan, index), lambda: folder.committed(plan), lambda *_, **__: None,
        monitor.elsewhere,
    )  # fmt: skip
    task = work.next()
    assert task is not None and task.shard.index == committed
    first = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(MEASURED):
        work.done(task)
        task = work.next()
        assert task is not None
    each = (time.perf_counter() - began) / MEASURED
    print(json.dumps({
        "committed": committed, "shards": shards, "seconds_to_the_first_task": round(first, 3),
        "microseconds_a_shard": round(1e6 * each, 1), "peak_mb": round(_peak()), "peak_before_mb": round(before),
    }))  # fmt: skip


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
