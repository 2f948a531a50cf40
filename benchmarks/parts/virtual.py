"""An engine and a store that are made up, for a driver that is not: parts cost next to nothing, and what they cost is known.

It does not know how a driver works; it is given shards and stores files.
"""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import pyarrow as pa

from pipeline.errors import DeadlineReached
from pipeline.output.config import OutputConfig
from pipeline.output.part import FOLDER, commit_part, encode_part, part_metadata, part_name
from pipeline.output.record.counts import Counts
from pipeline.planning.plan import Plan
from pipeline.run.dispatch.replica import Replica
from pipeline.store.base import Entry, Kind, Store, StoredFile
from pipeline.types import Progress, ShardReport, Task

TOKENS = 20
"""Generated tokens per row, so that there is something to count."""


class Parts:
    """The parts of a plan: Parquet files with one row, which differ in the shard's number only, and claim to hold a shard's.

    So each is made from one template in a microsecond, is read back by the code that reads real ones, and has a SHA-256
    of its own.
    """

    def __init__(self, plan: Plan) -> None:
        """Make the template."""
        self.plan = plan
        self.rows = plan.shard(0).rows
        assert plan.rows == self.rows * plan.shard_count, "every shard has as many rows"
        table = pa.table({"prompt": ["a prompt"], "text": ["a text"]})
        self.schema = table.schema
        counts = Counts(self.rows, self.rows, self.rows, TOKENS * self.rows)
        metadata = part_metadata(plan.plan_id, 7_777_777, "1", counts)
        data = encode_part(table, OutputConfig(path="x", compression="none"), metadata)
        at = data.index(b"7777777", data.index(b"promptmill.shard"))
        self._before, self._after = data[:at], data[at + 7 :]
        self._head = part_name(plan.plan8, 0, plan.shard_count).partition("-")[0] + "-"

    def content(self, index: int) -> bytes:
        """The bytes of a part."""
        return b"%b%07d%b" % (self._before, index, self._after)

    def name(self, index: int) -> str:
        """The stored name of a part."""
        return part_name(self.plan.plan8, index, self.plan.shard_count)

    def index(self, name: str) -> int:
        """The shard of a stored name."""
        return int(name[len(self._head) :].partition("-")[0])

    def report(self, index: int, data: bytes, *, already_there: bool) -> ShardReport:
        """What a replica tells of a part that it has committed."""
        sha256, rows = hashlib.sha256(data).hexdigest(), self.rows
        return ShardReport(index, self.name(index), rows, rows, rows, TOKENS * rows, {}, sha256, already_there)


class PartStore:
    """Files in memory; of a part it keeps only whether it is there. Lists as object stores do: all names, then sorted."""

    def __init__(self, parts: Parts, committed: int = 0) -> None:
        """Begin with the first `committed` parts."""
        self.parts = parts
        self.there = bytearray(parts.plan.shard_count)
        self.there[:committed] = b"\1" * committed
        self.files: dict[str, bytes] = {}

    def probe(self) -> None:
        """It has put-if-absent."""

    def put_if_absent(self, name: str, data: bytes | memoryview) -> bool:
        """See `Store`."""
        if name.startswith(FOLDER):
            index = self.parts.index(name)
            assert data == self.parts.content(index), "what is read back is what was put"
            absent = not self.there[index]
            self.there[index] = 1
            return absent
        if name in self.files:
            return False
        self.files[name] = bytes(data)
        return True

    def put(self, name: str, data: bytes | memoryview) -> None:
        """See `Store`."""
        assert not name.startswith(FOLDER), "a part is never replaced"
        self.files[name] = bytes(data)

    def get(self, name: str) -> bytes:
        """See `Store`."""
        if name.startswith(FOLDER):
            index = self.parts.index(name)
            if self.there[index]:
                return self.parts.content(index)
        elif name in self.files:
            return self.files[name]
        raise FileNotFoundError(name)

    def open(self, name: str) -> BinaryIO:
        """See `Store`."""
        return cast(BinaryIO, io.BytesIO(self.get(name)))

    def size(self, name: str) -> int:
        """See `Store`."""
        return len(self.get(name))

    def list(self, prefix: str = "") -> Iterator[StoredFile]:
        """See `Store`."""
        found = [StoredFile(name, len(data), 0.0) for name, data in self.files.items() if name.startswith(prefix)]
        if FOLDER.startswith(prefix):
            size = len(self.parts.content(0))
            found += [StoredFile(self.parts.name(i), size, 0.0) for i, there in enumerate(self.there) if there]
        yield from sorted(found, key=lambda file: file.name)

    def entries(self, folder: str = "") -> Iterator[Entry]:
        """See `Store`."""
        rest = [file.name.removeprefix(folder) for file in self.list(folder)]
        found = {name.partition("/")[0]: Kind.FOLDER if "/" in name else Kind.FILE for name in rest}
        yield from (Entry(folder + name, kind) for name, kind in found.items())

    def move(self, name: str, target: str) -> None:
        """See `Store`."""
        self.put(target, self.get(name))
        self.delete(name)

    def delete(self, name: str) -> None:
        """See `Store`."""
        self.files.pop(name, None)

    def sweep(self, older_than_seconds: float) -> int:
        """See `Store`."""
        return 0


@dataclass
class Meter:
    """What is not the driver's: calls of the store and of the replicas, their number, and the time that they take.

    Attributes:
        latency: Seconds that each call of the driver's takes more, as over a network.
        cpu: Processor seconds in all calls.
        calls: Calls by kind.
        wall: Seconds by kind.
    """

    latency: float = 0.0
    cpu: float = 0.0
    calls: Counter[str] = field(default_factory=Counter)
    wall: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def timed(self, kind: str, call: Callable[[], Any], latency: float = 0.0) -> Any:
        """Make a call."""
        began, cpu = time.perf_counter(), time.thread_time()
        if latency:
            time.sleep(latency)
        try:
            return call()
        finally:
            with self._lock:
                self.calls[kind] += 1
                self.wall[kind] += time.perf_counter() - began
                self.cpu += time.thread_time() - cpu

    def driver_cpu(self) -> float:
        """Processor seconds of this process that went into anything else: the driver's."""
        return time.process_time() - self.cpu


class Metered:
    """A store whose calls are metered, by the folder in which they are made."""

    def __init__(self, store: Store, meter: Meter) -> None:
        """Wrap a store."""
        self._store, self._meter = store, meter

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        """A method of the store."""
        method = getattr(self._store, kind)

        def call(name: Any = "", *more: Any) -> Any:
            def made() -> Any:
                # A listing is taken whole, so that the store's share of it is the store's.
                return iter(list(method(name))) if kind == "list" else method(*([name] if name != "" else []), *more)

            folder = str(name).rpartition("/")[0]
            return self._meter.timed(f"{kind} {folder}".strip(), made, self._meter.latency)

        return call


Waiting = deque[tuple[Task, "Future[ShardReport | None]", "VirtualReplica"]]


@dataclass(eq=False)
class VirtualReplica:
    """A replica that does its tasks when the pool comes to them."""

    name: str
    pool: VirtualPool
    done: int = 0
    node: str = "virtual"

    def submit(self, task: Task) -> Future[ShardReport | None]:
        """See `Replica`."""
        future: Future[ShardReport | None] = Future()
        self.pool.waiting.append((task, future, self))
        if self.pool.on_first is not None:
            self.pool.on_first()
            self.pool.on_first = None
        return future

    def progress(self) -> Progress:
        """See `Replica`."""
        rows = self.done * self.pool.parts.rows
        return Progress(completions=rows, completion_tokens=TOKENS * rows, beats=self.done, running=1)


@dataclass
class VirtualPool:
    """Replicas of which one finishes one task at each of the driver's steps, in the order in which tasks were handed out.

    One at a time is the worst case for the driver: whatever it does in a step, it does for each task.

    Attributes:
        count: Replicas.
        parts: What they make.
        store: Where they commit it.
        meter: What that costs is counted there.
        on_first: Called when the first task comes.
        stop_after: Finished tasks after which the run is stopped; None: none.
    """

    count: int
    parts: Parts
    store: Store
    meter: Meter
    on_first: Callable[[], None] | None = None
    stop_after: int | None = None
    made: int = 0
    waiting: Waiting = field(default_factory=deque)

    def start(self) -> list[Replica]:
        """See `ReplicaPool`."""
        return [VirtualReplica(f"replica-{number}", self) for number in range(self.count)]

    def leaving(self) -> set[str]:
        """None."""
        return set()

    def arrivals(self, unfinished: int) -> list[Replica]:
        """Finish one task; no replica arrives.

        Raises:
            DeadlineReached: After `stop_after` tasks.
        """
        if self.made == self.stop_after:
            raise DeadlineReached("as many tasks as were asked for are finished")
        if self.waiting:
            task, future, replica = self.waiting.popleft()
            report = self.meter.timed("commit", lambda: self._commit(task.shard.index))
            replica.done += 1
            self.made += 1
            future.set_result(report)
        return []

    def _commit(self, index: int) -> ShardReport:
        data = self.parts.content(index)
        mine = commit_part(self.store, self.parts.name(index), data, self.parts.plan.plan_id)
        return self.parts.report(index, data, already_there=not mine)

    def replace(self, replica: Replica) -> None:
        """None of them dies.

        Raises:
            AssertionError: Always.
        """
        raise AssertionError(f"{replica.name} is taken for dead")

    def pending(self) -> int:
        """See `ReplicaPool`."""
        return 0

    def doing(self) -> str:
        """See `ReplicaPool`."""
        return ""

    def facts(self) -> dict[str, Any]:
        """See `ReplicaPool`."""
        return {"replicas": self.count}

    def close(self) -> None:
        """There is nothing to stop."""
