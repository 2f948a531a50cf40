"""The queue of an output's missing shards, shared with other drivers: gives the next task, and handles results and deaths."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from pipeline.planning.plan import Plan
from pipeline.run.shared.claims import Claims, Taken
from pipeline.run.shared.suspects import Suspect, Suspects, witness
from pipeline.types import ErrorCode, Shard, Task

LOSSES = 5
"""How often a shard may be lost with a node before the next loss counts as a death of its replica."""
LOOK = 2.0
"""Seconds between checks of what other drivers have done; more if a check takes more than a tenth of that."""
LISTED = 200
"""Parts that a store lists in the time of one existence check."""


@dataclass
class Work:
    """The shards of one output that are not committed yet, as one driver sees them.

    Attributes:
        plan: The plan.
        missing: The shards to do, in the order in which to begin them.
        claims: This driver's claims.
        suspects: The shards that replicas died with.
        is_committed: Returns whether a shard's part exists.
        committed: Returns all shards whose parts exist.
        on_event: Called with an event's name and details.
        on_elsewhere: Called with each shard that another driver has committed.
        clock: A monotonic clock, seconds.
    """

    plan: Plan
    missing: Iterable[int]
    claims: Claims
    suspects: Suspects
    is_committed: Callable[[int], bool]
    committed: Callable[[], set[int]]
    on_event: Callable[..., None]
    on_elsewhere: Callable[[int], None]
    clock: Callable[[], float] = time.monotonic
    _queue: deque[int] = field(default_factory=deque)
    _alone: deque[int] = field(default_factory=deque)
    _in_hand: set[int] = field(default_factory=set)
    _elsewhere: set[int] = field(default_factory=set)
    _attempts: dict[int, int] = field(default_factory=dict)
    _lost: dict[int, int] = field(default_factory=dict)
    _next_look: float = float("-inf")
    _next_list: float = float("-inf")

    def __post_init__(self) -> None:
        """Read what earlier starts found out, and what other drivers hold."""
        self._queue.extend(self.missing)
        self.suspects.load()
        held = self.claims.look()
        if held:
            self._elsewhere = set(held).intersection(self._queue)
            self._queue = deque(index for index in self._queue if index not in self._elsewhere)
        self._next_look = self.clock() + LOOK

    @property
    def exhausted(self) -> bool:
        """Whether no shard is left, here or with other drivers."""
        return not (self._queue or self._alone or self._in_hand or self._elsewhere)

    @property
    def waits(self) -> bool:
        """Whether there is no task now, but may be one later."""
        return bool(self._elsewhere) and not (self._queue or self._alone or self._in_hand)

    @property
    def elsewhere(self) -> int:
        """Number of shards that other drivers work on."""
        return len(self._elsewhere)

    @property
    def waiting(self) -> int:
        """Number of shards that can be handed out."""
        return len(self._queue) + len(self._alone)

    @property
    def wants_alone(self) -> bool:
        """Whether a task waits that must have a replica for itself."""
        return bool(self._alone)

    def next(self) -> Task | None:
        """Return a task that may share its replica with others; None if there is none now."""
        while self._queue:
            shard = self.plan.shard(self._queue.popleft())
            suspect = self._taken(shard)
            if suspect is None:
                continue
            if suspect.alone:
                self._alone.append(shard.index)
                continue
            return self._task(shard, suspect)
        return None

    def next_alone(self) -> Task | None:
        """Return a task that must have a replica for itself; None if there is none now."""
        if not self._alone:
            return None
        shard = self.plan.shard(self._alone.popleft())
        suspect = self.suspects.get(shard)
        self.suspects.keep(suspect)
        # Each driver counts its own attempts, so a marker of an earlier driver proves nothing for this one.
        self.claims.store.delete(witness(shard.index))
        return replace(self._task(shard, suspect), witness=witness(shard.index))

    def copy(self, task: Task) -> Task:
        """Return a task that another replica has in flight, to be done a second time."""
        attempt = self._attempts[task.shard.index] = self._attempts.get(task.shard.index, 0) + 1
        return replace(task, attempt=attempt)

    def done(self, task: Task) -> None:
        """Record that a task ended: its part is committed, or its trial passed."""
        index = task.shard.index
        self._in_hand.discard(index)
        if task.trial is None:
            self.suspects.clear(index)
            self.claims.release(index)
            self._attempts.pop(index, None)
            self._lost.pop(index, None)
            return
        suspect = self.suspects.get(task.shard)
        suspect.passed()
        self.suspects.keep(suspect)
        self.on_event("trial_passed", shard=index, rows=list(task.trial))
        self._again(suspect)

    def died(self, task: Task, code: ErrorCode) -> None:
        """Record that a replica died or hung with a task in flight.

        Raises:
            WorkerFailed: If there is nothing left to try.
        """
        if not self.suspects.has_begun(task):
            self.give_back(task)
            return
        self._died(task, code)

    def _died(self, task: Task, code: ErrorCode) -> None:
        suspect = self.suspects.get(task.shard)
        blamed = len(suspect.guilty)
        try:
            suspect.died(code)
        finally:
            self.suspects.keep(suspect)
            self._in_hand.discard(task.shard.index)
        if len(suspect.guilty) > blamed:
            assert task.trial is not None
            self.on_event("row_blamed", shard=task.shard.index, row=task.trial[0], code=str(code))
        elif suspect.open:
            self.on_event("bisected", shard=task.shard.index, open=[list(rows) for rows in suspect.open])
        self._again(suspect)

    def give_back(self, task: Task) -> None:
        """Record that a task was lost for a reason unrelated to its rows, such as the end of a node.

        If that happens too often, it counts as a death, so that a row cannot make nodes be replaced forever.
        """
        index = task.shard.index
        lost = self._lost[index] = self._lost.get(index, 0) + 1
        if lost % LOSSES == 0:
            self._died(task, ErrorCode.WORKER_CRASH)
            return
        self._in_hand.discard(index)
        self._again(self.suspects.get(task.shard))

    def look(self) -> None:
        """From time to time, see what other drivers have committed, and take over the shards of dead ones."""
        begin = self.clock()
        if not self._elsewhere or begin < self._next_look:
            return
        # Read the claims first: if a claim is gone because its shard was committed, the listing after it shows the part.
        let_go = sorted(self._elsewhere.difference(self.claims.look()))
        few = len(let_go) * LISTED < self.plan.shard_count
        there = {index for index in let_go if self.is_committed(index)} if few else self.committed()
        self._elsewhere.difference_update(let_go)
        for index in let_go:
            if index in there:
                self.on_elsewhere(index)
            else:
                self._queue.append(index)
        self._next_look = self._paced(begin)

    def _paced(self, begin: float) -> float:
        """Return when to repeat what began at `begin` and ended now, so that it takes less than a tenth of the time."""
        now = self.clock()
        return now + max(LOOK, 10 * (now - begin))

    def _taken(self, shard: Shard) -> Suspect | None:
        """Claim a shard, and return its suspicion; None if this driver is not to do it."""
        taken = self.claims.take(shard.index)
        if taken is Taken.NO:
            self._elsewhere.add(shard.index)
            return None
        if self.is_committed(shard.index):
            self.claims.release(shard.index)
            self._pass_over(shard.index)
            return None
        suspect = self.suspects.get(shard)
        if taken is Taken.YES and shard.index not in self._attempts:
            self.on_event("shard_claimed", shard=shard.index)
        elif taken is Taken.FROM_THE_DEAD:
            self.on_event("shard_taken_over", shard=shard.index)
            suspect.driver_ended()
            self.suspects.keep(suspect)
        return suspect

    def _pass_over(self, index: int) -> None:
        """Skip a shard: another driver has committed parts since the last listing, so list them again before going on."""
        begin = self.clock()
        if begin < self._next_list:
            self.on_elsewhere(index)
            return
        there = self.committed().intersection(self._queue) | {index}
        self._queue = deque(other for other in self._queue if other not in there)
        for other in sorted(there):
            self.on_elsewhere(other)
        self._next_list = self._paced(begin)

    def _task(self, shard: Shard, suspect: Suspect) -> Task:
        attempt = self._attempts[shard.index] = self._attempts.get(shard.index, 0) + 1
        self._in_hand.add(shard.index)
        return Task(shard, attempt, suspect.trial, dict(suspect.guilty))

    def _again(self, suspect: Suspect) -> None:
        """Put a shard that this driver holds back at the front."""
        if suspect.alone:
            self._alone.appendleft(suspect.shard)
        else:
            self._queue.appendleft(suspect.shard)
