"""What the host has to do for a step on a GPU, measured without one: the device's work is left out.

    python -m benchmarks.gpu.measured.host [SEQUENCES …]

The engine schedules, packs, fetches and finishes as on a GPU; what it would replay is not computed, so every token is the
same. What CUDA's own calls take is not in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import torch

from benchmarks.parts.machine import describe
from benchmarks.parts.procedure import report
from benchmarks.parts.sizes import TOKENIZER
from pipeline.engine.config import ModelConfig, StatsConfig
from pipeline.engine.continuous import ContinuousEngine
from pipeline.engine.layers.attention import TRITON
from pipeline.engine.model.files.checkpoint import resolve
from pipeline.engine.model.load import load_model
from pipeline.engine.model.tokenizer import load_tokenizer
from pipeline.engine.steps import graphs as stepper
from pipeline.engine.steps.runner import ModelRunner
from pipeline.engine.steps.shapes import Shape
from pipeline.sampling import SamplingParams
from pipeline.types import Request

PROMPT, NEW, ROUNDS = 32, 90, 4
PROMPT_TOKENS, UNIT = 512, "fixed-rows-256"
"""As on a GPU."""


class Nothing:
    """Stands where a recorded step is replayed: it gives the same numbers at once."""

    def __init__(self, device: torch.device) -> None:
        """Start with no numbers."""
        self._given: dict[int, dict[str, torch.Tensor]] = {}

    def run(self, key: Hashable, function: Callable[[], Any]) -> Any:
        """Give what a step's sampling would; nothing for the model."""
        if isinstance(key, Shape):
            return None
        assert isinstance(key, tuple)
        rows = key[0]
        if rows not in self._given:
            self._given[rows] = {
                "chosen": torch.full((rows,), 7), "finite": torch.ones(rows, dtype=torch.bool),
                "token_logprobs": torch.zeros(rows), "token_entropies": torch.zeros(rows),
                "token_ranks": torch.ones(rows, dtype=torch.int32),
            }  # fmt: skip
        return self._given[rows]


def measure(sequences: int) -> tuple[float, float]:
    """Return (milliseconds of a step in which all decode, milliseconds for each completion beside those)."""
    config = ModelConfig(path=str(TOKENIZER))
    checkpoint = resolve(config)
    loaded = dataclasses.replace(load_model(checkpoint, config), attention=TRITON, kernels={UNIT: 1})
    runner = ModelRunner(loaded, sequences, PROMPT + NEW)
    engine = ContinuousEngine(
        runner, load_tokenizer(TOKENIZER, loaded.vocab_size), StatsConfig(), sequences + PROMPT_TOKENS
    )
    rules = SamplingParams(temperature=1.0, max_tokens=NEW, ignore_eos=True)
    prompts = np.random.default_rng(0).integers(1, 200, (ROUNDS * sequences, PROMPT)).tolist()
    engine.add([Request(str(i), 0, tuple(prompt), rules) for i, prompt in enumerate(prompts)])
    steady, total, steps = list[float](), 0.0, 0
    while any(engine.load()):
        waiting = engine.load()[1]
        start = time.perf_counter()
        done = engine.step()
        seconds = time.perf_counter() - start
        total, steps = total + seconds, steps + 1
        if engine.load() == (sequences, waiting) and not done:
            steady.append(seconds)
    step = statistics.median(steady)
    return 1e3 * step, 1e3 * max(0.0, total - steps * step) / len(prompts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", type=int, nargs="*", default=[64, 256, 512])
    arguments = parser.parse_args()
    stepper.Recordings = Nothing  # type: ignore[misc, assignment]
    found = {}
    print("| sequences | ms a step | ms a completion beside |\n|---:|---:|---:|")
    for sequences in arguments.sequences:
        found[sequences] = measure(sequences)
        print(f"| {sequences} | {found[sequences][0]:.3f} | {found[sequences][1]:.3f} |")
    report({"engine": "promptmill", "host_milliseconds": found, "machine": describe()}, "promptmill", "torch")


if __name__ == "__main__":
    main()
