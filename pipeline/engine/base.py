"""What an engine is, to whoever feeds it: requests go in, steps are taken, completions come out.

It does not know how any engine batches its work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.types import Completion, Request, Room


class Engine(Protocol):
    """Turns requests into completions.

    A completion is a pure function of its request and the model: what else is in the engine does not matter.
    """

    def add(self, requests: Sequence[Request]) -> None:
        """Queue requests. Those of one call may be started in any order; calls are served first come, first served.

        Every request must have 1 to `max_model_len` - 1 prompt tokens, each within the vocabulary.
        """

    def step(self) -> list[Completion]:
        """Advance what is queued by one step and return what that finished. Does nothing when nothing is queued."""

    def load(self) -> tuple[int, int]:
        """Return (running, waiting): sequences that hold a place in the batch, and requests that wait for one."""

    @property
    def room(self) -> Room:
        """How many sequences may run at once, and how much of the KV cache is in use. Asked for after every step."""
