"""Wraps an engine and isolates the requests that make it raise: these become errors, and all others go on.

After an exception, a fresh engine replaces the old one, whose state is unknown. The requests in flight are tried in halves
until single ones are left. A completion does not depend on the other requests of its batch, so completions of a trial are
kept. If a request that is known to be good raises too, no request is to blame, and the exception is raised.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.engine.base import Engine
from pipeline.errors import DeviceFault, PromptmillError, WorkerFailed
from pipeline.types import Completion, ErrorCode, FinishReason, Request, Room, RowError
from pipeline.wording import named

PROBE = "\0"
"""The row id of the probe, a request that only tests whether the engine works; no row has this id."""
PROBE_TOKENS = 4
HOPELESS = 16
"""Consecutive requests that may fail alone before the probe tests the engine."""
_OF_THE_DEVICE = re.compile(
    r"(?i)CUDA error|device-side assert|CUBLAS_STATUS|CUDNN_STATUS|uncorrectable ECC|illegal memory"
)
"""What libraries say of a device fault, for an engine that cannot ask its device."""

_log = logging.getLogger(__name__)


class GuardedEngine:
    """See the module.

    Args:
        engine: The first engine, empty.
        renew: Makes another engine, after the old one was dropped.
        probe: A request that any engine can serve; the first request that completes replaces it.
        lost: Returns why the device no longer works, or None if it does; None: the exception's text decides.
    """

    def __init__(
        self, engine: Engine, renew: Callable[[], Engine], probe: Request, lost: Callable[[], str | None] | None = None
    ) -> None:
        """Start empty."""
        self._engine: Engine | None = engine
        self._renew, self._probe, self._lost = renew, _short(probe), lost
        self._worked = False
        self._in_hand: dict[tuple[str, int], Request] = {}
        self._to_add: list[Sequence[Request]] = []
        self._trials: deque[list[Request]] = deque()
        self._trying: list[Request] = []
        self._held: list[tuple[Request, str]] = []

    def add(self, requests: Sequence[Request]) -> None:
        """Queue requests; see `Engine.add`. During a search they wait for its end."""
        self._in_hand.update({_key(request): request for request in requests})
        self._to_add.append(requests)

    def load(self) -> tuple[int, int]:
        """Return (running, waiting); see `Engine.load`."""
        running, _ = self._now().load()
        return running, len(self._in_hand) - running

    @property
    def room(self) -> Room:
        """See `Engine.room`."""
        return self._now().room

    def step(self) -> list[Completion]:
        """Advance; see `Engine.step`.

        Raises:
            DeviceFault: If the device no longer works.
            PromptmillError: If the engine fails on every request.
        """
        try:
            engine = self._now()
            while self._to_add and not (self._trying or self._trials):
                engine.add(self._to_add.pop(0))
            done = engine.step()
        except BaseException as error:
            self._failed(error)
            done = []
        told = [completion for completion in done if completion.request.row_id != PROBE]
        for completion in done:
            del self._in_hand[_key(completion.request)]
        if done and self._held:
            self._check_hope(told)
            told += [self._blamed(*held) for held in self._held]
            self._held.clear()
        for completion in told:
            if completion.error is None:
                self._worked, self._probe = True, _short(completion.request)
        if self._trying and not any(_key(request) in self._in_hand for request in self._trying):
            self._next_trial()
        return told

    def _now(self) -> Engine:
        """Return the engine; if the last one failed, a fresh one with the requests of the current trial."""
        if self._engine is None:
            self._engine = self._renew()
            self._engine.add(self._trying)
        return self._engine

    def _failed(self, error: BaseException) -> None:
        """Split the failed trial in halves; a request that failed alone is held until another one completes."""
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise error
        text = named(error)
        if self._is_of_the_device(error):
            raise DeviceFault(f"the device no longer works: {text}") from error
        if self._trying == [self._probe]:
            raise error if isinstance(error, PromptmillError) else _of_all(text) from error
        tried = [request for request in self._trying or self._in_hand.values() if _key(request) in self._in_hand]
        _log.debug("an exception from the engine", exc_info=error)
        if not self._trying:
            _log.warning(
                "the engine raised %s; searching for the row that makes it, among %d",
                text,
                len({r.row_id for r in tried}),
            )
            self._to_add.clear()
        self._engine = None
        if len(tried) > 1:
            middle = len(tried) // 2
            self._trials.extendleft((tried[middle:], tried[:middle]))
        else:
            self._held += [(request, text) for request in tried]
        self._next_trial()

    def _is_of_the_device(self, error: BaseException) -> bool:
        """Whether an exception means that the device is lost: no other engine in this process could use it."""
        if self._lost is not None:
            return self._lost() is not None
        return _OF_THE_DEVICE.search(str(error)) is not None

    def _next_trial(self) -> None:
        """Begin the next trial; at the end, or after many lone failures, the probe decides about the requests held."""
        if self._held and (not self._trials or len(self._held) >= HOPELESS):
            self._trying = [self._probe]
            self._in_hand[_key(self._probe)] = self._probe
        elif self._trials:  # while none completes, try requests far from those that failed
            self._trying = self._trials.pop() if self._held else self._trials.popleft()
        else:
            self._trying = []
        if self._engine is not None and self._trying:
            self._engine.add(self._trying)

    def _check_hope(self, told: Sequence[Completion]) -> None:
        """Refuse to blame many rows if no row has ever completed, although the probe does."""
        if not (told or self._worked) and len(self._held) >= HOPELESS:
            raise _of_all(f"{self._held[0][1]} for each of {len(self._held)} rows")

    def _blamed(self, request: Request, text: str) -> Completion:
        """Make a request an error: it failed alone, and another one completed after it."""
        del self._in_hand[_key(request)]
        _log.warning("row %s becomes an error row: %s", request.row_id, text)
        message = f"the engine raised {text}, with nothing but this row in flight"
        return Completion(request, finish_reason=FinishReason.ERROR, error=RowError(ErrorCode.WORKER_CRASH, message))


def _of_all(text: str) -> WorkerFailed:
    return WorkerFailed(f"the engine raises {text}, whatever it is given, so no row is to blame")


def _short(request: Request) -> Request:
    sampling = replace(request.sampling, n=1, min_tokens=0, max_tokens=min(PROBE_TOKENS, request.sampling.max_tokens))
    return replace(request, row_id=PROBE, sample_index=0, sampling=sampling)


def _key(request: Request) -> tuple[str, int]:
    return request.row_id, request.sample_index
