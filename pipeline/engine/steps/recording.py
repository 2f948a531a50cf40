"""Records functions as CUDA graphs and replays them, so that a step costs the host next to nothing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

from pipeline.engine.cache.memory import out_of_memory
from pipeline.wording import named

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class Recordings:
    """Runs functions, each named by a key. On a GPU, the first run records the function, and later runs replay it.

    A function must read and write only tensors at fixed addresses, must not branch on their content, and must be repeatable.
    Every replay returns the same tensors with new content. On other devices, the function simply runs.

    Args:
        device: Where the tensors are.
    """

    def __init__(self, device: torch.device) -> None:
        """Start with nothing recorded."""
        self._device = device
        self._recorded: dict[Hashable, tuple[Any, Any]] = {}
        self._unrecordable: set[str] = set()
        self._dropped = False
        self._pool: Any = None
        self._stream: Any = None

    def run(self, what: str, key: Hashable, function: Callable[[], Result]) -> Result:
        """Run the function of this key.

        Args:
            what: What the function does, for messages. After one function of that name could not be recorded, no other is.
            key: Names the function with the shapes of its tensors.
            function: The function to record under the key.
        """
        if self._device.type != "cuda" or self._dropped:
            return function()
        if key not in self._recorded:
            if what in self._unrecordable:
                return function()
            self._recorded[key] = self._record(what, function)
        graph, result = self._recorded[key]
        if graph is None:
            return function()
        graph.replay()
        return result  # type: ignore[no-any-return]

    def drop(self) -> bool:
        """Forget what is recorded, with its memory, and record nothing more; return False if that was so already."""
        dropped, self._dropped = self._dropped, True
        self._recorded.clear()
        self._pool = None
        return not dropped

    def _record(self, what: str, function: Callable[[], Any]) -> tuple[Any, Any]:
        """Record a function; (None, None) if that is not possible."""
        if self._pool is None:  # one memory pool for all: only one recording runs at a time
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                function()  # compiles kernels and initialises libraries, which cannot be recorded
        finally:  # work launched before the failure must not overlap with the fallback
            current.wait_stream(self._stream)
        graph, causes = torch.cuda.CUDAGraph(), list[Exception]()
        try:
            # other threads of this process may use the device meanwhile
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                result = _noting(function, causes)
        except Exception as error:  # torch's, or whatever a compiler raises
            self._abandon(current)
            # when it ends a recording that failed, torch raises that it failed; why is in what was raised before
            causes.append(error)
            if any(map(out_of_memory, causes)):
                raise
            self._unrecordable.add(what)
            why = named(causes[0])
            logger.warning("%s cannot be recorded and is launched kernel by kernel, which is slower: %s", what, why)
            return None, None
        finally:
            causes.clear()  # their tracebacks hold tensors
        return graph, result

    def _abandon(self, current: Any) -> None:
        """Undo what torch leaves behind after a failed recording: its current stream and its memory pool.

        Otherwise the next recording fails, and memory cannot be given back to the device.
        """
        torch.cuda.set_stream(current)
        device = torch.cuda.current_device()
        # torch may have done so already, or have renamed the functions
        with contextlib.suppress(RuntimeError, AttributeError):
            torch._C._cuda_endAllocateToPool(device, self._pool)
            torch._C._cuda_releasePool(device, self._pool)  # taken when the recording began
        self._pool = torch.cuda.graph_pool_handle()  # earlier recordings keep the old pool


def _noting(function: Callable[[], Any], causes: list[Exception]) -> Any:
    """Call a function, and keep the exception that it raises: what follows it may be raised in its place."""
    try:
        return function()
    except Exception as error:
        causes.append(error)
        raise


def fetch(tensors: dict[str, torch.Tensor]) -> Callable[[], dict[str, torch.Tensor]]:
    """Start copying tensors to the host, and return a function that waits for the copies.

    Work that is launched afterwards may overwrite the tensors.
    """
    if all(t.device.type == "cpu" for t in tensors.values()):
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        return lambda: copies
    there = {name: torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for name, t in tensors.items()}
    for name, tensor in tensors.items():
        there[name].copy_(tensor, non_blocking=True)
    # other threads may run while this one waits
    done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    done.record()

    def wait() -> dict[str, torch.Tensor]:
        done.synchronize()
        return there

    return wait
