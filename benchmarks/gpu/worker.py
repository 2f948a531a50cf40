"""Runs parts one after the other in one process; each has a time limit, and what fails does not keep the others from running.

    python -m benchmarks.gpu.worker FILE FOLDER DEADLINE DEVICE SIZE PART…

It does not know what the parts measure. Where the device is lost, it ends: the caller goes on in a new process.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import FrameType

if sys.argv[4:5] == ["cpu"]:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.device import Cpu, Cuda
from benchmarks.gpu.limits import LIMITS, NO_DEVICE, OutOfTime
from benchmarks.gpu.measured import (
    attention,
    ceilings,
    correctness,
    faults,
    options,
    own_tests,
    products,
    roofline,
    same_bytes,
    throughput,
    whole_job,
)
from benchmarks.gpu.report import Reporter
from benchmarks.gpu.scale import FULL, TINY

PARTS: dict[str, Callable[[Bench], None]] = {
    "machine": ceilings.machine,
    "correctness": correctness.check,
    "same bytes": same_bytes.small,
    "own tests": own_tests.run,
    "faults": faults.run,
    "attention": attention.micro,
    "products": products.compare,
    "throughput": throughput.compare,
    "whole job": whole_job.run,
    "roofline": roofline.step_time,
    "profile": roofline.profile,
    "options": options.each,
    "same bytes, large": same_bytes.large,
    "other sizes": throughput.other_sizes,
    "continuous batching": throughput.continuous,
}
LOST = 75
"""Exit status where the device does not answer any more."""
KEPT_LINES = 6


def run(name: str, bench: Bench) -> None:
    """Run a part and keep how it ended."""
    bench.report.event("start")
    print(f"{name}:", flush=True)
    start = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, max(1.0, min(LIMITS[name], bench.left)))
        try:
            PARTS[name](bench)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except OutOfTime as error:
        # beyond the whole budget it is not the part's fault
        end, why = "failed" if bench.left > 1 else "skipped", [f"cut short: {error}"]
    except Exception as error:
        end, why = "failed", "".join(traceback.format_exception(error)).strip().splitlines()[-KEPT_LINES:]
    else:
        end, why = "done", []
    seconds = time.perf_counter() - start
    bench.report.event(end, why="\n".join(why), seconds=round(seconds, 2))
    print("\n    ".join([f"  {end} after {seconds:.0f} s", *why]), flush=True)
    if end != "done":
        _recover(bench)  # here no traceback holds an engine any more


def _recover(bench: Bench) -> None:
    """Give memory back; end the process if the device is lost, as an illegal access leaves it."""
    try:
        bench.close_all()
        bench.device.synchronize()
    except RuntimeError as error:
        print(f"  the device is lost: {str(error).splitlines()[0]}", flush=True)
        os._exit(LOST)


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise OutOfTime("took longer than its limit")


def _cannot_interpret() -> str | None:
    """Why Triton's interpreter, in which kernels run without a GPU, does not work here; None: it does."""
    try:
        found = metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "--device cpu needs Triton, whose interpreter runs the kernels: pip install 'triton>=3.7'"
    if tuple(map(int, found.split(".")[:2])) >= (3, 7):
        return None
    return f"--device cpu needs Triton 3.7 or later: the interpreter of {found} does not work with NumPy from 2.4 on"


def main() -> None:
    """Run the parts that the command line names, and leave out those for which there is no time."""
    file, folder, deadline, device, size, *names = sys.argv[1:]
    signal.signal(signal.SIGALRM, _too_long)
    torch.set_grad_enabled(False)
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if device == "cpu" and (why := _cannot_interpret()) is not None:
        print(f"benchmarks/gpu.sh: {why}", file=sys.stderr)
        raise SystemExit(NO_DEVICE)
    if device == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu.sh: torch sees no GPU here; --device cpu --tiny runs it without one", file=sys.stderr)
        raise SystemExit(NO_DEVICE)
    scale = TINY if size == "tiny" else FULL
    chosen = Cuda() if device == "cuda" else Cpu()
    bench = Bench(chosen, scale, Path(folder), Reporter(Path(file), names[0]), float(deadline))
    for name in names:
        bench.report = Reporter(Path(file), name)
        if bench.left <= 0:
            bench.report.event("skipped", why="no time was left")
            print(f"{name}: left out, no time is left", flush=True)
            continue
        run(name, bench)


if __name__ == "__main__":
    main()
