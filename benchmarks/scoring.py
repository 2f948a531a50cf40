"""Times the scoring of given texts against a plain batched loop of transformers and lm-evaluation-harness, by turns.

    python -m benchmarks.scoring MODEL [--texts 8] [--tokens 512] [--repeats 3] [--batch 4] [--harness] [--choices 4]

It prints one JSON line: tokens per second of each (the median of the repeats), and what all statistics cost against
log-probabilities alone; `benchmarks.limits MODEL 256` has the limit of the products at the rows of a step. With `--choices`,
the texts are contexts of so many tokens with that many endings of a twelfth of them. Loading and a warm-up are left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the jobs set it

import numpy as np
import torch

from benchmarks.parts.procedure import report
from pipeline.engine.assembly import build_engine
from pipeline.engine.config import EngineConfig, ModelConfig, StatsConfig
from pipeline.engine.continuous import ContinuousEngine
from pipeline.engine.model.files.checkpoint import resolve
from pipeline.types import Request, SamplingParams

Asked = list[tuple[list[int], list[int]]]
"""Tokens that are read, and those after them that are scored."""


def main() -> None:
    """Load, time by turns, print."""
    arguments = _parser().parse_args()
    asked = _asked(arguments)
    ways: dict[str, Callable[[Asked], object]] = {**_ours(arguments), "transformers": _transformers(arguments)}
    if arguments.harness:
        ways["harness"] = _harness(arguments)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run(asked[: max(1, len(asked) // 8)])
    for _ in range(arguments.repeats):
        for name, run in ways.items():
            started = time.perf_counter()
            run(asked)
            seconds[name].append(time.perf_counter() - started)
    scored = sum(len(after) for _, after in asked)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    report(
        {
            "model": arguments.model, "texts": arguments.texts, "tokens": arguments.tokens, "choices": arguments.choices,
            "scored": scored, "tokens_per_second": {name: round(scored / s, 2) for name, s in medians.items()},
            "seconds": seconds, "all_statistics": round(medians["promptmill"] / medians["promptmill, logprob only"], 4),
            "over_transformers": round(medians["transformers"] / medians["promptmill"], 3),
        },
        "promptmill", "torch", "transformers",
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model")
    made.add_argument("--texts", type=int, default=8)
    made.add_argument("--tokens", type=int, default=512)
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--batch", type=int, default=4, help="texts in a batch of the others")
    made.add_argument("--choices", type=int, default=0)
    made.add_argument("--harness", action="store_true")
    return made


def _asked(arguments: argparse.Namespace) -> Asked:
    rng = np.random.default_rng(3)

    def ids(count: int) -> list[int]:
        found: list[int] = rng.integers(1000, 40_000, count).tolist()
        return found

    texts = [ids(arguments.tokens) for _ in range(arguments.texts)]
    if not arguments.choices:
        return [(text[:1], text[1:]) for text in texts]
    return [(text, ids(max(1, arguments.tokens // 12))) for text in texts for _ in range(arguments.choices)]


def _ours(arguments: argparse.Namespace) -> dict[str, Callable[[Asked], object]]:
    model = ModelConfig(path=arguments.model, dtype="float32")
    built = build_engine(resolve(model), model, EngineConfig(), StatsConfig())
    runner = built.engine._runner  # type: ignore[attr-defined]

    def way(stats: StatsConfig) -> Callable[[Asked], object]:
        # one model and cache for both
        engine = ContinuousEngine(runner, built.tokenizer, stats, 256)  # type: ignore[arg-type]

        def run(asked: Asked) -> object:
            engine.add([
                Request(str(i), 0, (*before, *after), SamplingParams(), len(before))
                for i, (before, after) in enumerate(asked)
            ])  # fmt: skip
            done = []
            while any(engine.load()):
                done += engine.step()
            return done

        return run

    return {"promptmill": way(StatsConfig()), "promptmill, logprob only": way(StatsConfig(columns=["logprob"]))}


def _transformers(arguments: argparse.Namespace) -> Callable[[Asked], object]:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()

    @torch.inference_mode()
    def run(asked: Asked) -> object:
        found = []
        for start in range(0, len(asked), arguments.batch):
            found += _batch(model, asked[start : start + arguments.batch])
        return found

    return run


def _batch(model: Any, asked: Sequence[tuple[list[int], list[int]]]) -> list[torch.Tensor]:
    """Score a batch that is padded on the right, as a loop of a few lines does."""
    width = max(len(before) + len(after) for before, after in asked)
    inputs = torch.tensor([[*before, *after, *[0] * (width - len(before) - len(after))] for before, after in asked])
    logprobs = model(input_ids=inputs[:, :-1], use_cache=False).logits.log_softmax(-1)
    taken = logprobs.gather(-1, inputs[:, 1:, None])[..., 0]
    return [taken[i, len(b) - 1 : len(b) + len(a) - 1] for i, (b, a) in enumerate(asked)]


def _harness(arguments: argparse.Namespace) -> Callable[[Asked], object]:
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=arguments.model, device="cpu", dtype="float32", batch_size=arguments.batch)
    return lambda asked: model._loglikelihood_tokens([(("", ""), b, a) for b, a in asked], disable_tqdm=True)


if __name__ == "__main__":
    main()
