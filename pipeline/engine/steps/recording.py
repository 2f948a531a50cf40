"""Functions that the device repeats by itself: recorded as CUDA graphs, so that a step costs the host next to nothing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

from pipeline.engine.cache.memory import out_of_memory

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class Recordings:
    """Runs functions, each named by a key. On a GPU it is recorded when it is first run, and replayed from then on.

    A function reads and writes only tensors that stay where they are, looks at the content of none of them, and gives the
    same when it is run again. Its result is the same tensors at every replay, with new content. On other devices it is run.

    Args:
        device: Where the tensors are.
    """

    def __init__(self, device: torch.device) -> None:
        """Start with nothing recorded."""
        self._device = device
        self._recorded: dict[Hashable, tuple[Any, Any]] = {}
        self._pool: Any = None
        self._stream: Any = None

    def run(self, key: Hashable, function: Callable[[], Result]) -> Result:
        """Run the function of this key.

        Args:
            key: Names the function with the shapes of its tensors.
            function: What is to be recorded under the key.
        """
        if self._device.type != "cuda":
            return function()
        if key not in self._recorded:
            self._recorded[key] = self._record(key, function)
        graph, result = self._recorded[key]
        if graph is None:
            return function()
        graph.replay()
        return result  # type: ignore[no-any-return]

    def _record(self, key: Hashable, function: Callable[[], Any]) -> tuple[Any, Any]:
        """Record a function; (null, null) if it cannot be."""
        if self._pool is None:  # one memory for all: only one of them runs at a time
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                function()  # kernels are compiled and libraries made ready, which cannot be recorded
        finally:  # what was launched before it failed must not run beside what is done instead
            current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads of this process may use the device meanwhile
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                result = function()
        except RuntimeError as error:
            self._abandon(current)
            if out_of_memory(error):
                raise
            logger.warning(
                "%s cannot be recorded and is launched kernel by kernel, which is slower: %s",
                key,
                str(error).partition("\n")[0],
            )
            return None, None
        return graph, result

    def _abandon(self, current: Any) -> None:
        """Put right what torch leaves of a recording that failed: the stream it ran on, and the memory it would go on to use.

        Without that, the next recording fails, and so does giving memory back to the device.
        """
        torch.cuda.set_stream(current)
        with contextlib.suppress(RuntimeError, AttributeError):  # it has done so itself, or it is called something else
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)
        self._pool = torch.cuda.graph_pool_handle()  # what was recorded before keeps the old one


def fetch(tensors: dict[str, torch.Tensor]) -> Callable[[], dict[str, torch.Tensor]]:
    """Begin to copy tensors to the host; the function that is returned waits for them.

    The device may write to the tensors again with what it is asked to do afterwards.
    """
    if all(t.device.type == "cpu" for t in tensors.values()):
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        return lambda: copies
    there = {name: torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for name, t in tensors.items()}
    for name, tensor in tensors.items():
        there[name].copy_(tensor, non_blocking=True)
    # another thread may have the processor while this one waits
    done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    done.record()

    def wait() -> dict[str, torch.Tensor]:
        done.synchronize()
        return there

    return wait
