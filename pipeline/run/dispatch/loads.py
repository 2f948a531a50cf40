"""Counts the tasks in flight per replica, and finds a replica for the next task without scanning all of them."""

from __future__ import annotations

from pipeline.run.dispatch.replica import Replica


class Loads:
    """Replicas by the number of their tasks; each operation takes constant time, whatever the number of replicas.

    A replica with a task that must be alone takes no other, and is never returned.

    Args:
        most: Most tasks per replica.
    """

    def __init__(self, most: int) -> None:
        """Start without replicas."""
        self._load: dict[str, int] = {}
        self._alone: set[str] = set()
        # Number of tasks → the replicas with that many, longest waiting first.
        self._with: list[dict[str, Replica]] = [{} for _ in range(most + 1)]

    @property
    def alone(self) -> bool:
        """Whether a replica has a task that must be alone."""
        return bool(self._alone)

    def add(self, replica: Replica) -> None:
        """Add a replica without tasks."""
        self._load[replica.name] = 0
        self._with[0][replica.name] = replica

    def remove(self, replica: Replica) -> None:
        """Remove a replica with all its tasks."""
        self._with[self._load.pop(replica.name)].pop(replica.name, None)
        self._alone.discard(replica.name)

    def take(self, replica: Replica, *, alone: bool = False) -> None:
        """Count a task that a replica gets."""
        self._move(replica, 1)
        if alone:
            self._alone.add(replica.name)
            del self._with[self._load[replica.name]][replica.name]

    def finish(self, replica: Replica) -> None:
        """Count a task that a replica has finished."""
        self._alone.discard(replica.name)
        self._move(replica, -1)

    def first(self, number: int, but: Replica | None = None) -> Replica | None:
        """Return a replica with `number` tasks, other than `but`; None if there is none."""
        return next((replica for replica in self._with[number].values() if replica is not but), None)

    def least_loaded(self) -> Replica | None:
        """Return a replica with the fewest tasks; None if there is none."""
        return next((replica for level in self._with for replica in level.values()), None)

    def _move(self, replica: Replica, by: int) -> None:
        load = self._load[replica.name]
        self._with[load].pop(replica.name, None)
        self._load[replica.name] = load + by
        self._with[load + by][replica.name] = replica
