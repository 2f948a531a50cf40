"""A simulated world: several drivers and replicas on one output, a store that fails, processes that die, clocks that jump.

Drivers run the real claims, work, dispatch, commits and manifest; only the store, the time and the engine are made up.
Everything follows from one seed. While a driver waits for the store, others go on: each operation is a place to interleave.

    python -m tests.run.simulation [RUNS] [FIRST_SEED]
"""

from __future__ import annotations

import functools
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.errors import PromptmillError, StorageFull, WorkerFailed
from pipeline.output.config import OutputConfig
from pipeline.output.folder import OutputFolder
from pipeline.output.part import commit_part, encode_part, part_metadata, part_name, sha256_of
from pipeline.output.record import manifest as manifests
from pipeline.output.record.counts import Counts
from pipeline.output.record.manifest import MANIFEST, Manifest, assemble, put_manifest
from pipeline.planning.plan import InputFile, Plan, make_plan
from pipeline.run.dispatch import dispatch
from pipeline.run.dispatch.dispatch import Dispatcher
from pipeline.run.dispatch.replica import Replica, ReplicaDied, ReplicaLost
from pipeline.run.shared.claims import BEAT, Claims
from pipeline.run.shared.queue import Work
from pipeline.run.shared.suspects import DEATHS, Suspects
from pipeline.types import ErrorCode, Progress, ShardReport, Task
from tests.run.simulated_store import Killed, SharedFiles, View, unavailable

HANG = 30.0
MOST_STEPS = 20_000
"""A world that is not finished after so many steps without faults has come to a stand."""


def plan_of(shards: int, rows: int) -> Plan:
    file = InputFile("in.parquet", "/in.parquet", 1, shards * rows, "0" * 64)
    return make_plan([file], {"seed": 1}, rows_per_shard=rows)


@functools.cache
def part_bytes(plan_id: str, index: int, rows: int, guilty: tuple[tuple[int, ErrorCode], ...]) -> bytes:
    """The part that any right driver makes of a shard."""
    blamed = dict(guilty)
    codes = [str(blamed[row]) if row in blamed else None for row in range(rows)]
    table = pa.table({"row_id": [f"{index}:{row}" for row in range(rows)], "error_code": pa.array(codes, pa.string())})
    counts = Counts(rows, rows, rows, 2 * rows, dict(Counter(code for code in codes if code)))
    return encode_part(table, OutputConfig(path="x", compression="none"), part_metadata(plan_id, index, "1", counts))


@dataclass(eq=False)
class SimReplica:
    """A replica that does one of its tasks when it is told to."""

    name: str
    world: World
    view: View
    in_hand: list[tuple[Task, Future[ShardReport | None]]] = field(default_factory=list)
    alive: bool = True
    beats: int = 0
    node: str = "somewhere"

    def submit(self, task: Task) -> Future[ShardReport | None]:
        future: Future[ShardReport | None] = Future()
        self.in_hand.append((task, future))
        if not self.alive:
            self.die(ReplicaDied("is gone"))
        return future

    def progress(self) -> Progress:
        return Progress(beats=self.beats)

    def die(self, reason: ReplicaDied) -> None:
        self.alive = False
        lost, self.in_hand = self.in_hand, []
        for _, future in lost:
            future.set_exception(reason)

    def do(self, place: int) -> None:
        """Bring one task to its end."""
        task, future = self.in_hand[place]
        try:
            if task.witness is not None:
                self.view.put(task.witness, str(task.attempt).encode())
        except Killed:
            self.die(ReplicaDied("killed before it began"))
            return
        except PromptmillError:
            return  # it will try again
        if (task, future) not in self.in_hand:
            return
        fate = self.world.fate(task)
        if fate is ErrorCode.WORKER_CRASH:
            self.die(ReplicaDied("segmentation fault"))
            return
        if fate is ErrorCode.TIMEOUT:
            return  # for ever
        self.beats += 1
        try:
            result: ShardReport | PromptmillError | None = None if task.trial else self._commit(task)
        except Killed:
            self.die(ReplicaDied("killed in the middle of a commit"))
            return
        except PromptmillError as error:
            result = error
        if (task, future) not in self.in_hand:
            return  # killed while it waited for the store
        self.in_hand.remove((task, future))
        if isinstance(result, PromptmillError):
            future.set_exception(result)
        else:
            future.set_result(result)

    def _commit(self, task: Task) -> ShardReport:
        plan, shard = self.world.plan, task.shard
        name = part_name(plan.plan8, shard.index, shard.count)
        data = part_bytes(plan.plan_id, shard.index, shard.rows, tuple(sorted(task.excluded.items())))
        mine = commit_part(self.view, name, data, plan.plan_id)
        self.world.acknowledged.add(name)
        rows = shard.rows
        sha = sha256_of(self.view, name)
        return ShardReport(shard.index, name, rows, rows, rows, 2 * rows, dict(Counter(map(str, task.excluded.values()))),
                           sha, already_there=not mine)  # fmt: skip


@dataclass
class SimPool:
    """Replicas of one driver; a buried one's successor comes when the world lets it."""

    world: World
    driver: SimDriver
    wanted: int
    replicas: list[SimReplica] = field(default_factory=list)
    starting: int = 0

    def _new(self) -> SimReplica:
        name = f"{self.driver.name}-r{len(self.world.replicas)}"
        made = SimReplica(name, self.world, self.world.view(name))
        self.replicas.append(made)
        self.world.replicas.append(made)
        return made

    def start(self) -> list[Replica]:
        return [self._new() for _ in range(self.wanted)]

    def leaving(self) -> set[str]:
        """Now and then one of two is about to go."""
        if len(self.replicas) > 1 and self.world.chance(self.world.faults / 4):
            return {self.world.rng.choice(self.replicas).name}
        return set()

    def arrivals(self, unfinished: int) -> list[Replica]:
        if self.starting and self.world.chance(0.5):
            self.starting -= 1
            return [self._new()]
        return []

    def replace(self, replica: Replica) -> None:
        assert isinstance(replica, SimReplica)
        replica.alive = False
        replica.in_hand.clear()
        self.starting += 1

    def pending(self) -> int:
        return self.starting

    def doing(self) -> str:
        return ""

    def facts(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        for replica in self.replicas:
            replica.alive = False
            replica.in_hand.clear()


@dataclass(eq=False)
class SimDriver:
    """What `pipeline.run.driver` does, a step at a time and without a display."""

    name: str
    world: World
    state: str = "new"
    busy: bool = False
    dispatcher: Dispatcher | None = None
    reports: dict[int, ShardReport] = field(default_factory=dict)
    next_beat: float = 0.0

    def __post_init__(self) -> None:
        self.view = self.world.view(self.name, self)
        self.folder = OutputFolder(self.view)
        self.claims = Claims(self.view, self.name, process="elsewhere", clock=self.world.clock)
        self.pool = SimPool(self.world, self, self.world.rng.randint(1, 3))

    @property
    def running(self) -> bool:
        return self.state in ("new", "working")

    def step(self) -> None:
        """Go on to the next place where others may come in; a driver that is in the middle of an operation waits."""
        if self.busy or not self.running:
            return
        self.busy = True
        try:
            self._step()
        except Killed:
            self.world.kill_driver(self, orphans=True)
        except WorkerFailed:
            self._stop("failed")
        except (PromptmillError, OSError):
            self._stop("stopped")
        finally:
            self.busy = False

    def _step(self) -> None:
        if self.state == "new":
            self.plan = self.folder.claim_plan(self.world.plan)
            if self.folder.finished(self.plan) is not None:
                self.state = "complete"
                return
            self.claims.beat()
            self._begin()
            self.state = "working"
            return
        if self.world.clock() >= self.next_beat:
            self.claims.beat()
            self.next_beat = self.world.clock() + BEAT
        assert self.dispatcher is not None
        if not self.dispatcher.step():
            self._finish()

    def _begin(self) -> None:
        there = self.folder.committed(self.plan)
        work = Work(
            self.plan, [i for i in range(self.plan.shard_count) if i not in there], self.claims, Suspects(self.view),
            lambda index: self.folder.is_committed(self.plan, index), lambda: self.folder.committed(self.plan),
            lambda *_, **__: None, lambda index: None, clock=self.world.clock,
        )  # fmt: skip
        self.dispatcher = Dispatcher(
            self.pool,
            work,
            self._report,
            lambda: None,
            lambda *_, **__: None,
            hang_timeout=HANG,
            clock=self.world.clock,
        )
        for replica in self.pool.start():
            self.dispatcher.add(replica)

    def _report(self, report: ShardReport) -> None:
        self.reports[report.shard] = report

    def _finish(self) -> None:
        if self.folder.finished(self.plan) is None:
            put_manifest(self.view, assemble(self.view, self.plan, self.reports, {}, {}))
            self.claims.sweep()
        self._stop("complete")

    def _stop(self, state: str) -> None:
        """Stop in good order, as far as that succeeds."""
        self.pool.close()
        try:
            self.claims.close()
        except Killed:
            state = "killed"
        except (PromptmillError, OSError):
            pass  # what it holds is taken over when it has been silent for long enough
        self.state = state


class World:
    """All of it, from one seed."""

    def __init__(self, seed: int, *, faults: float = 0.04) -> None:
        self.rng = random.Random(seed)
        self.time, self.store_offset, self.faults = 0.0, 0.0, faults
        self.plan = plan_of(self.rng.randint(1, 6), self.rng.randint(1, 5))
        self.poison = {
            (self.rng.randrange(self.plan.shard_count), self.rng.randrange(self.plan.rows_per_shard)): self.rng.choice(
                [ErrorCode.WORKER_CRASH, ErrorCode.TIMEOUT]
            )
            for _ in range(self.rng.choice([0, 0, 0, 1, 2]))
        }
        self.files = SharedFiles(lambda: self.time + self.store_offset)
        self.acknowledged: set[str] = set()
        self.outside: Counter[tuple[int, int]] = Counter()
        self.drivers: list[SimDriver] = []
        self.replicas: list[SimReplica] = []
        self.partitioned: set[str] = set()
        self.depth = 0

    def clock(self) -> float:
        return self.time

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def fate(self, task: Task) -> ErrorCode | None:
        """What a task does to its replica."""
        start, stop = task.trial or (0, task.shard.rows)
        rows = [row for row in range(start, stop) if row not in task.excluded]
        return next(
            (self.poison[task.shard.index, row] for row in rows if (task.shard.index, row) in self.poison), None
        )

    def view(self, actor: str, driver: SimDriver | None = None) -> View:
        def before(kind: str, name: str) -> None:
            self._interleave()
            if driver is not None and driver.state == "killed":
                raise Killed
            if actor in self.partitioned:
                raise unavailable(kind, name)
            if self.chance(self.faults / 4):
                raise self.rng.choice(
                    [unavailable(kind, name), Killed(), StorageFull(name) if "put" in kind else Killed()]
                )

        def after(kind: str, name: str) -> bool:
            if self.chance(self.faults / 4):
                raise self.rng.choice([unavailable(kind, name), Killed()])
            return self.chance(self.faults)

        return View(self.files, before, after)

    def _interleave(self) -> None:
        """While one waits for the store, another may go on."""
        if self.depth < 3 and self.chance(0.15):
            self.depth += 1
            try:
                self.act()
            finally:
                self.depth -= 1

    def act(self) -> None:
        """Something happens, not a fault."""
        busy = [replica for replica in self.replicas if replica.alive and replica.in_hand]
        running = [driver for driver in self.drivers if driver.running]
        what = self.rng.random()
        if what < 0.45 and busy:
            replica = self.rng.choice(busy)
            replica.do(self.rng.randrange(len(replica.in_hand)))
        elif what < 0.9 and running:
            self.rng.choice(running).step()
        else:
            self.time += self.rng.choice([0.5, 2.0, 5.0])

    def misfortune(self) -> None:
        """A fault beyond those of single operations."""
        what = self.rng.choice(
            ["driver", "driver", "replica", "node", "clock", "partition", "heal", "start", "start", "long"]
        )
        running = [driver for driver in self.drivers if driver.running]
        alive = [replica for replica in self.replicas if replica.alive]
        if what == "driver" and running:
            self.kill_driver(self.rng.choice(running), orphans=self.chance(0.5))
        elif what in ("replica", "node") and alive:
            # Half of them where it hurts most: with a task that must tell something, or idle, about to be handed one.
            telling = [r for r in alive if not r.in_hand or any(task.witness for task, _ in r.in_hand)]
            replica = self.rng.choice(telling if telling and self.chance(0.5) else alive)
            if what == "replica":
                self._note_outside([replica])
            replica.die(ReplicaDied("signal 9") if what == "replica" else ReplicaLost("node died"))
        elif what == "clock":
            self.store_offset += self.rng.choice([-86400.0, 86400.0, -100.0, 100.0])
        elif what == "partition" and running:
            self.partitioned.add(self.rng.choice(running).name)
        elif what == "heal":
            self.partitioned.clear()
        elif what == "start" and len(running) < 3:
            self.start_driver()
        elif what == "long":
            self.time += 100.0

    def start_driver(self) -> None:
        self.drivers.append(SimDriver(f"d{len(self.drivers)}", self))

    def kill_driver(self, driver: SimDriver, *, orphans: bool) -> None:
        """SIGKILL. Its replicas go with it, or some time later: then they commit for nobody."""
        driver.state = "killed"
        self._note_outside(driver.pool.replicas)
        if not orphans:
            driver.pool.close()

    def _note_outside(self, replicas: list[SimReplica]) -> None:
        """Remember what single rows were in flight when something was killed from outside: they may be blamed for it."""
        for replica in replicas:
            for task, _ in replica.in_hand:
                if task.trial is not None and task.trial[1] - task.trial[0] == 1:
                    self.outside[task.shard.index, task.trial[0]] += 1

    def run(self, steps: int) -> None:
        """Let things happen, faults among them; then only good ones, until the output is complete; then check it."""
        self.start_driver()
        for _ in range(steps):
            self.act()
            if self.chance(self.faults):
                self.misfortune()
        self.settle()
        self.check()

    def settle(self) -> None:
        """No more faults: whatever state things are in, a driver that is started again and again completes the output."""
        self.faults = 0.0
        self.partitioned.clear()
        for _ in range(MOST_STEPS):
            if MANIFEST in self.files.files and not any(driver.running for driver in self.drivers):
                return
            if not any(driver.running for driver in self.drivers):
                self.start_driver()
            self.act()
        raise AssertionError("it does not come to an end")

    def check(self) -> None:
        plan, files = self.plan, self.files
        names = [part_name(plan.plan8, index, plan.shard_count) for index in range(plan.shard_count)]
        assert sorted(name for name in files.files if name.startswith("data/")) == names, "each part, and no other file"
        for index, name in enumerate(names):
            assert len(files.history[name]) == 1, "a part is written once, and nothing replaces it"
            guilty = self._blamed(index)
            rows = plan.shard(index).rows
            assert files.files[name][0] == part_bytes(plan.plan_id, index, rows, tuple(sorted(guilty.items())))
            for row in set(guilty).symmetric_difference(row for shard, row in self.poison if shard == index):
                assert self.outside[index, row] >= DEATHS, "only deadly rows are blamed, and all of them"
        assert self.acknowledged <= set(names)
        manifest = Manifest.from_json(files.files[MANIFEST][0])
        assert [part.file for part in manifest.parts] == names
        assert manifest.totals.rows == plan.rows

    def _blamed(self, index: int) -> dict[int, ErrorCode]:
        """The rows that a part has as errors; read from the part itself."""
        import pyarrow.parquet as pq

        data = self.files.files[part_name(self.plan.plan8, index, self.plan.shard_count)][0]
        codes = pq.read_table(pa.BufferReader(data)).column("error_code").to_pylist()
        return {row: ErrorCode(code) for row, code in enumerate(codes) if code is not None}


class _Serial:
    """In place of a pool of threads: a simulation has none, so that it can be repeated."""

    def __init__(self, **_: Any) -> None:
        pass

    def __enter__(self) -> _Serial:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function: Any, items: Any) -> Iterator[Any]:
        return map(function, items)


def make_repeatable(monkeypatch: Any) -> None:
    """Without threads and without waiting."""
    monkeypatch.setattr(manifests, "ThreadPoolExecutor", _Serial)
    monkeypatch.setattr(dispatch, "TICK", 0.0)


def main() -> None:
    """Run many worlds, and say which seed fails."""

    class Patch:
        setattr = staticmethod(setattr)

    runs, first = (
        (int(word) for word in [*sys.argv[1:], "10000", "0"][:2]) if len(sys.argv) != 2 else (int(sys.argv[1]), 0)
    )
    make_repeatable(Patch)
    logging.disable()
    began = time.monotonic()
    for seed in range(first, first + runs):
        try:
            World(seed).run(150)
        except BaseException:
            print(f"seed {seed} fails", file=sys.stderr)
            raise
        if (seed - first + 1) % 10_000 == 0:
            print(f"{seed - first + 1:,} worlds, {time.monotonic() - began:.0f} s", flush=True)
    print(
        f"{runs:,} worlds from seed {first}: each complete, each row once, the right bytes; {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
