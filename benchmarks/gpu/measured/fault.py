"""Causes one fault under a small engine, and prints a line of JSON: the tokens of all requests, and what was said.

    python -m benchmarks.gpu.measured.fault NAME MODEL cuda|cpu

On a processor, where nothing is recorded and no memory of a card can be taken, the fault is one that is raised.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

if sys.argv[3:4] == ["cpu"]:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

import torch

from pipeline.engine.assembly import build_engine
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.guarded import GuardedEngine
from pipeline.engine.model.files.checkpoint import resolve
from pipeline.errors import PromptmillError
from pipeline.types import Request, SamplingParams

LEFT = 64 << 20
"""Bytes of a card that a program leaves which takes its memory."""
STEPS = 6
"""Steps before the fault."""


class Said(logging.Handler):
    """Keeps warnings."""

    def __init__(self) -> None:
        """Start with none."""
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.lines.append(record.getMessage())


def requests() -> list[Request]:
    """Sixteen, greedy, of 40 tokens."""
    sampling = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)
    return [Request(str(i), 0, tuple(range(5 + i, 25 + 2 * i)), sampling) for i in range(16)]


def fail_to_record(engine: Any) -> list[Any]:
    """Have a step look at a tensor's content, which a recording cannot hold."""
    stepper = engine._stepper
    run = getattr(stepper, "_run", None)
    if run is not None:

        def looking(tokens: Any) -> None:
            tokens.packed.sum().item()
            run(tokens)

        stepper._run = looking
        stepper.shed()
        stepper._recordings = type(stepper._recordings)(engine._runner.loaded.device)
    return []


def take_memory(engine: Any) -> list[Any]:
    """Take what is left of the card behind torch's back; on a processor, raise once."""
    if torch.cuda.is_available():
        engine._stepper._recordings._recorded.clear()  # what is recorded needs no more memory
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        return [torch.cuda.caching_allocator_alloc(max(1, free - LEFT))]
    run, left = engine._runner.run, [torch.OutOfMemoryError("CUDA out of memory.")]

    def once(*arguments: Any, **options: Any) -> Any:
        if left:
            raise left.pop()
        return run(*arguments, **options)

    engine._runner.run = once
    return []


def access_illegally(engine: Any) -> list[Any]:
    """Index beyond a tensor on the card, which its kernels assert; on a processor, raise what that would."""
    if torch.cuda.is_available():
        step = engine.step

        def out_of_bounds() -> Any:
            torch.zeros(8, device="cuda")[torch.tensor([1 << 20], device="cuda")].sum()
            return step()

        engine.step = out_of_bounds
        return []

    def broken() -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    engine.step = broken
    return []


FAULTS: dict[str, Callable[[Any], list[Any]]] = {
    "none": lambda engine: [], "no C compiler": lambda engine: [], "recording that fails": fail_to_record,
    "memory that another program takes": take_memory, "illegal access": access_illegally,
}  # fmt: skip


def main() -> None:
    """Run the requests, with the fault after STEPS steps."""
    name, folder, device = sys.argv[1:]
    said = Said()
    logging.getLogger().addHandler(said)
    model = ModelConfig(path=folder, dtype="float32")
    config = EngineConfig(max_num_seqs="8", max_model_len=128)
    tokens: dict[str, list[int]] | None = {}
    try:
        built = build_engine(resolve(model), model, config, StatsConfig(), device=device)
        engine: Any = built.engine
        guarded = GuardedEngine(engine, built.renew, requests()[0], built.lost)
        guarded.add(requests())
        held: list[Any] = []
        for step in range(100_000):
            if step == STEPS:
                held = FAULTS[name](engine)
            tokens |= {c.request.row_id: list(c.token_ids) for c in guarded.step()}
            if not any(guarded.load()):
                break
        del held
    except PromptmillError as error:
        tokens = None
        said.lines.append(f"{type(error).__name__}: {error}")
    print(json.dumps({"tokens": tokens, "said": said.lines}), flush=True)


if __name__ == "__main__":
    main()
