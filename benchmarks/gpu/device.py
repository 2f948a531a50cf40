"""Clocks, traces and facts of a device: CUDA's own where there is a GPU, and stand-ins on a processor.

The one module here that calls `torch.cuda`. It does not know what is measured.
"""

from __future__ import annotations

import gc
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Run = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Span:
    """Something that the device did, from `start` to `end`, in microseconds."""

    name: str
    start: float
    end: float


class Cpu:
    """A processor, so that everything can be run without a GPU."""

    kind = "cpu"

    def describe(self) -> dict[str, Any]:
        """Facts about the device."""
        return {"device": platform.processor() or platform.machine(), "driver": "none"}

    def synchronize(self) -> None:
        """Wait until the device has done everything."""

    def milliseconds(self, run: Run, repeats: int = 10) -> float:
        """Median time of a call, after two that do not count."""
        times = []
        for number in range(repeats + 2):
            start = time.perf_counter()
            run()
            if number > 1:
                times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times)

    def repeated(self, run: Run, times: int) -> Run:
        """What runs it several times in a row, with as little as possible between them."""
        return lambda: [run() for _ in range(times)]

    def trace(self, run: Run) -> list[Span]:
        """What the device did during a call."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            run()
        return [_span(event) for event in _events(profile, "CPU") if event.cpu_parent is None]

    def peak_bytes(self) -> int:
        """Most memory that tensors held since the last call of `release`; 0: unknown."""
        return 0

    def release(self) -> None:
        """Give memory back that no tensor holds."""
        gc.unfreeze()
        gc.collect()


class Cuda(Cpu):
    """A GPU."""

    kind = "cuda"

    def describe(self) -> dict[str, Any]:
        """Facts about the device."""
        facts = torch.cuda.get_device_properties(0)
        return {
            "device": torch.cuda.get_device_name(), "driver": _driver(), "cuda": torch.version.cuda,
            "capability": f"{facts.major}.{facts.minor}", "multiprocessors": facts.multi_processor_count,
            "memory_gib": round(facts.total_memory / 2**30, 1),
        }  # fmt: skip

    def synchronize(self) -> None:
        """Wait until the device has done everything."""
        torch.cuda.synchronize()

    def milliseconds(self, run: Run, repeats: int = 10) -> float:
        """Median time of a call by the device's own clock, after two that do not count."""
        times: list[float] = []
        for number in range(repeats + 2):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            if number > 1:
                times.append(start.elapsed_time(end))
        return statistics.median(times)

    def repeated(self, run: Run, times: int) -> Run:
        """A CUDA graph of several runs: launches take no time between them."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()
            run()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(times):
                run()
        return graph.replay

    def trace(self, run: Run) -> list[Span]:
        """The kernels, copies and fills of a call; the profiler itself is started once before, as that takes a while."""
        kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=kinds):
            torch.zeros(1, device="cuda").add_(1)
            torch.cuda.synchronize()
        with torch.profiler.profile(activities=kinds) as profile:
            run()
            torch.cuda.synchronize()
        return [_span(event) for event in _events(profile, "CUDA")]

    def peak_bytes(self) -> int:
        """Most memory that tensors held since the last call of `release`."""
        return torch.cuda.max_memory_allocated()

    def release(self) -> None:
        """Give memory back that no tensor holds."""
        super().release()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _events(profile: Any, device: str) -> list[Any]:
    return [event for event in profile.events() if event.device_type.name == device]


def _span(event: Any) -> Span:
    return Span(str(event.name), float(event.time_range.start), float(event.time_range.end))


def _driver() -> str:
    """The driver's version as its own tool tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found[0] if found else "unknown"
