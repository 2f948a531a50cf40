"""How many tasks each replica has in hand, so that who can take another is found without looking at all of them."""

from __future__ import annotations

from pipeline.run.dispatch.replica import Replica


class Hands:
    """Replicas by the number of their tasks; whatever changes costs the same with a thousand replicas as with one.

    A replica with a task that must be alone can take no other, and is not found.

    Args:
        most: Tasks that a replica may have.
    """

    def __init__(self, most: int) -> None:
        """Start without replicas."""
        self._load: dict[str, int] = {}
        self._alone: set[str] = set()
        # Number of tasks → the replicas with as many, those first that have been there for longest.
        self._with: list[dict[str, Replica]] = [{} for _ in range(most + 1)]

    @property
    def alone(self) -> bool:
        """Whether a replica has a task for which it must be alone."""
        return bool(self._alone)

    def add(self, replica: Replica) -> None:
        """A replica has come, with nothing in hand."""
        self._load[replica.name] = 0
        self._with[0][replica.name] = replica

    def remove(self, replica: Replica) -> None:
        """A replica has gone, with whatever it had."""
        self._with[self._load.pop(replica.name)].pop(replica.name, None)
        self._alone.discard(replica.name)

    def take(self, replica: Replica, *, alone: bool = False) -> None:
        """A replica gets a task."""
        self._move(replica, 1)
        if alone:
            self._alone.add(replica.name)
            del self._with[self._load[replica.name]][replica.name]

    def let_go(self, replica: Replica) -> None:
        """A replica is through with a task."""
        self._alone.discard(replica.name)
        self._move(replica, -1)

    def first(self, number: int, but: Replica | None = None) -> Replica | None:
        """Return a replica with `number` tasks, other than `but`; null if there is none."""
        return next((replica for replica in self._with[number].values() if replica is not but), None)

    def emptiest(self) -> Replica | None:
        """Return a replica with as few tasks as any; null if there is none."""
        return next((replica for level in self._with for replica in level.values()), None)

    def _move(self, replica: Replica, by: int) -> None:
        load = self._load[replica.name]
        self._with[load].pop(replica.name, None)
        self._load[replica.name] = load + by
        self._with[load + by][replica.name] = replica
