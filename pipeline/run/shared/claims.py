"""Claims: which driver works on which shard, so that several drivers on one output share the work.

A claim is a file that is put if absent. A live driver writes a heartbeat to another file. Ages are measured on the store's
clock, never on this machine's. Correctness does not rest on claims but on put-if-absent of the parts: a wrong claim costs
only time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum

from pipeline.errors import PromptmillError
from pipeline.store.base import Store, checked_name
from pipeline.store.door import fetch
from pipeline.store.process import is_gone, me

CLAIMS = "_job/claims/"
DRIVERS = "_job/drivers/"
BEAT = 10.0
"""Seconds between two heartbeats of a driver."""
STALE = 60.0
"""Seconds without a heartbeat after which a driver counts as dead, and its claims as free."""

MOST_BYTES = 1 << 16
"""Most bytes of a claim, and of a driver's process name."""

_log = logging.getLogger(__name__)


class Taken(Enum):
    """The result of a claim."""

    YES = "yes"
    FROM_THE_DEAD = "the driver that held it ended without letting go of it"
    NO = "another driver holds it"


@dataclass
class _Seen:
    """The last heartbeat of another driver, and when this machine first saw it."""

    modified: float
    since: float


@dataclass
class Claims:
    """One driver's claims on one output.

    Attributes:
        store: The output folder.
        driver: This driver's name; no other ever has it.
        process: What tells its process from others; see `pipeline.store.process`.
        clock: A monotonic clock, seconds.
        threads: How many threads release claims in the background; 0: the driver waits for the store itself.
    """

    store: Store
    driver: str
    process: str = field(default_factory=me)
    clock: Callable[[], float] = time.monotonic
    threads: int = 0
    held: set[int] = field(default_factory=set)
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _processes: dict[str, str] = field(default_factory=dict)
    _dead: set[str] = field(default_factory=set)
    _owners: dict[int, tuple[float, str | None]] = field(default_factory=dict)
    _pool: ThreadPoolExecutor | None = None
    _closing: bool = False
    _failed: bool = False

    def __post_init__(self) -> None:
        """Refuse a name that cannot be a file's."""
        checked_name(DRIVERS + self.driver)
        if self.threads:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="release")

    def beat(self) -> None:
        """Write a heartbeat. If that fails, the driver goes on: the next one may succeed."""
        try:
            self.store.put(DRIVERS + self.driver, self.process.encode())
        except (PromptmillError, OSError) as error:
            _log.warning("the heartbeat could not be written to %s: %s", DRIVERS, error)

    def take(self, index: int) -> Taken:
        """Claim a shard."""
        if self.store.put_if_absent(_name(index), self.driver.encode()):
            self.held.add(index)
            return Taken.YES
        owner = self._owner(index)
        if owner == self.driver:  # the PUT was applied, and its reply lost
            self.held.add(index)
            return Taken.YES
        if owner is not None and self._lives(owner, look=True):
            return Taken.NO
        if owner is not None:
            self.store.delete(_name(index))
        # Two drivers that find the same dead one may both get here: one of them then works for nothing.
        if not self.store.put_if_absent(_name(index), self.driver.encode()):
            return Taken.NO
        self.held.add(index)
        return Taken.FROM_THE_DEAD if owner is not None else Taken.YES

    def release(self, index: int) -> None:
        """Release a shard: it is committed, or another driver may do it."""
        self.held.discard(index)
        if self._pool is None:
            self._let_go(index)
        else:
            self._pool.submit(self._try_to_let_go, index)

    def look(self) -> dict[int, str]:
        """Return shard → driver for the claims of all other live drivers."""
        self._look_at_drivers()
        before, self._owners = self._owners, {}
        for file in list(self.store.list(CLAIMS)):
            number = file.name.removeprefix(CLAIMS)
            if number.isdigit() and int(number) not in self.held:
                index = int(number)
                known = before.get(index)  # each claim is read only once
                fresh = known is not None and known[0] == file.last_modified
                self._owners[index] = known if known is not None and fresh else (file.last_modified, self._owner(index))
        owners = {index: owner for index, (_, owner) in self._owners.items() if owner is not None}
        return {index: owner for index, owner in owners.items() if owner != self.driver and self._lives(owner)}

    def close(self) -> None:
        """Release all claims at a normal stop. If that fails, other drivers will take this one for dead."""
        self._closing, self._failed = True, False
        try:
            for index in list(self.held):
                self.release(index)
            if self._pool is not None:
                self._pool.shutdown()
            self.store.delete(DRIVERS + self.driver)
        except (PromptmillError, OSError) as error:
            _log.warning("claims could not be removed from %s; other drivers take over in a minute: %s", CLAIMS, error)

    def sweep(self) -> None:
        """Remove the claims of a complete output, and the heartbeats of dead drivers."""
        for file in list(self.store.list(CLAIMS)):
            self.store.delete(file.name)
        self._look_at_drivers()
        for driver in self._dead:
            self.store.delete(DRIVERS + driver)

    def _let_go(self, index: int) -> None:
        if self._owner(index) == self.driver:
            self.store.delete(_name(index))

    def _try_to_let_go(self, index: int) -> None:
        """Release a shard in a thread. When the driver stops, an unreachable store is not asked once per shard."""
        if self._closing and self._failed:
            return
        try:
            self._let_go(index)
        except (PromptmillError, OSError) as error:
            self._failed = True
            self.held.add(index)  # released at the end
            _log.warning("the claim %s could not be removed: %s", _name(index), error)

    def _owner(self, index: int) -> str | None:
        try:
            return fetch(self.store, _name(index), MOST_BYTES).decode(errors="replace")
        except FileNotFoundError:
            return None
        except ValueError:
            return "too large to be a driver's name"

    def _lives(self, driver: str, *, look: bool = False) -> bool:
        """Whether a driver is alive, by what is known, or by another look at the heartbeats."""
        if look and driver not in self._dead:
            self._look_at_drivers()
        return driver in self._seen and driver not in self._dead

    def _look_at_drivers(self) -> None:
        """Find live drivers by the store's clock, and by heartbeats that change meanwhile: a clock may be set back."""
        now = self.clock()
        there = {file.name.removeprefix(DRIVERS): file.last_modified for file in self.store.list(DRIVERS)}
        mine = there.pop(self.driver, None)
        self._dead.intersection_update(there)
        for driver, modified in there.items():
            seen = self._seen.get(driver)
            if seen is None or seen.modified != modified:
                self._seen[driver] = seen = _Seen(modified, now)
                self._dead.discard(driver)
            too_old = mine is not None and mine - modified > STALE
            if too_old or now - seen.since > STALE or self._is_gone(driver):
                self._dead.add(driver)
        for driver in set(self._seen).difference(there):
            del self._seen[driver]

    def _is_gone(self, driver: str) -> bool:
        """Whether a driver's process was on this machine and has ended; the name is read once per driver."""
        if driver not in self._processes:
            try:
                self._processes[driver] = fetch(self.store, DRIVERS + driver, MOST_BYTES).decode(errors="replace")
            except (FileNotFoundError, ValueError):
                return True
        return is_gone(self._processes[driver])


class Pulse:
    """A thread that writes a driver's heartbeat, whatever the main thread is doing."""

    def __init__(self, claims: Claims, every: float = BEAT) -> None:
        """Write the first heartbeat, and start the thread."""
        self._claims, self._every, self._stopped = claims, every, threading.Event()
        claims.beat()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(self._every):
            self._claims.beat()

    def stop(self) -> None:
        """Stop, before the driver releases its claims; no heartbeat is written after that."""
        self._stopped.set()
        self._thread.join(timeout=5)


def _name(index: int) -> str:
    return f"{CLAIMS}{index:05d}"
