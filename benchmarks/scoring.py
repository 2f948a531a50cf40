"""Times the scoring of given texts against a plain batched loop of transformers and lm-evaluation-harness, by turns.

    python -m benchmarks.scoring MODEL [--texts 8] [--tokens 512] [--repeats 3] [--batch 4] [--choices 4] [--only WAY …]

It prints one JSON line: tokens per second of each way (the median of the repeats), and ratios, such as what all statistics cost
against log-probabilities alone. The limit is measured by the same turns: `products` multiplies by the weights of all linear
layers as often as so many tokens need it, at the rows of the engine's steps with its kernels, `library products` at the rows of
a batch with the library's. The quicker of the two is the limit, and each way's share of it is printed. With `--choices`, the
texts are contexts of so many tokens with that many endings of a twelfth of them. Loading and a warm-up are left out.
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
from pipeline.engine.layers.linear import PackedLinear
from pipeline.engine.model.files.checkpoint import resolve
from pipeline.types import Request, SamplingParams

Asked = list[tuple[list[int], list[int]]]
"""Tokens that are read, and those after them that are scored."""
Way = Callable[[Asked], object]
LIMITS = ("products", "library products")
WAYS = ("promptmill", "logprob only", "transformers", "lm-eval", *LIMITS)
STEP = 256
"""Tokens of the engine's steps."""


def main() -> None:
    """Load, time by turns, print."""
    arguments = _parser().parse_args()
    asked = _asked(arguments)
    ways = _ways(arguments, WAYS if arguments.only is None else arguments.only)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run([(before[:64], after[:64]) for before, after in asked[:2]])
    for _ in range(arguments.repeats):
        for name, run in ways.items():
            started = time.perf_counter()
            run(asked)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    scored = sum(len(after) for _, after in asked)
    report(
        {
            "model": arguments.model, "texts": arguments.texts, "tokens": arguments.tokens, "choices": arguments.choices,
            "scored": scored, "tokens_per_second": {name: round(scored / s, 2) for name, s in medians.items()},
            "seconds": {name: [round(s, 3) for s in times] for name, times in seconds.items()}, **_ratios(seconds),
        },
        "promptmill", "torch", "transformers", "lm_eval",
    )  # fmt: skip


def _ratios(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """How many times as fast as the others promptmill is, what statistics cost, and the shares of the limit.

    Medians of the rounds' ratios: the machine's speed may change from a round to the next.
    """
    found: dict[str, Any] = {}
    ours = seconds.get("promptmill")
    if ours is not None:
        found = {f"over_{n}": _median(seconds[n], ours) for n in ("transformers", "lm-eval") if n in seconds}
        if "logprob only" in seconds:
            found["all_statistics"] = _median(ours, seconds["logprob only"])
    limits = [times for name, times in seconds.items() if name in LIMITS]
    if limits:
        limit = [min(times) for times in zip(*limits, strict=True)]
        found["of_the_limit"] = {name: _median(limit, times) for name, times in seconds.items() if name not in LIMITS}
    return found


def _median(above: Sequence[float], below: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 3)


def _ways(arguments: argparse.Namespace, only: Sequence[str]) -> dict[str, Way]:
    """Load what the wanted ways need, and return them in their order."""
    found: dict[str, Way] = {}
    if {"promptmill", "logprob only", "products"} & {*only}:
        found.update(_ours(arguments))
    if {"transformers", "library products"} & {*only}:
        found.update(_transformers(arguments))
    if "lm-eval" in only:
        found["lm-eval"] = _harness(arguments)
    return {name: found[name] for name in only}


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model")
    made.add_argument("--texts", type=int, default=8)
    made.add_argument("--tokens", type=int, default=512)
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--batch", type=int, default=4, help="texts in a batch of the others")
    made.add_argument("--choices", type=int, default=0)
    made.add_argument("--only", nargs="+", choices=WAYS, help="the ways to time, in this order; without it all of them")
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


def _ours(arguments: argparse.Namespace) -> dict[str, Way]:
    model = ModelConfig(path=arguments.model, dtype="float32")
    built = build_engine(resolve(model), model, EngineConfig(), StatsConfig())
    runner = built.engine._runner  # type: ignore[attr-defined]

    def way(stats: StatsConfig) -> Way:
        # one model and cache for both
        engine = ContinuousEngine(runner, built.tokenizer, stats, STEP)  # type: ignore[arg-type]

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

    layers = [(m, m.in_features) for m in runner.loaded.model.modules() if isinstance(m, PackedLinear)]
    return {
        "promptmill": way(StatsConfig()), "logprob only": way(StatsConfig(columns=["logprob"])),
        "products": _products(layers, STEP),
    }  # fmt: skip


def _products(layers: Sequence[tuple[Any, int]], rows: int) -> Way:
    """Return what runs the layers, which come with their width, for all tokens, `rows` of them at a time."""
    inputs = {width: torch.rand(rows, width) - 0.5 for _, width in layers}

    @torch.inference_mode()
    def run(asked: Asked) -> object:
        tokens = sum(len(before) + len(after) - 1 for before, after in asked)
        for start in range(0, tokens, rows):
            for layer, width in layers:
                layer(inputs[width][: tokens - start])
        return None

    return run


def _transformers(arguments: argparse.Namespace) -> dict[str, Way]:
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    model: Any = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    model.eval()

    @torch.inference_mode()
    def run(asked: Asked) -> object:
        found = []
        for start in range(0, len(asked), arguments.batch):
            found += _batch(model, asked[start : start + arguments.batch])
        return found

    layers = [(m, m.weight.shape[0] if isinstance(m, Conv1D) else m.in_features)
              for m in model.modules() if isinstance(m, torch.nn.Linear | Conv1D)]  # fmt: skip
    rows = arguments.batch * (len(_asked(arguments)[0][0]) + len(_asked(arguments)[0][1]) - 1)
    return {"transformers": run, "library products": _products(layers, rows)}


def _batch(model: Any, asked: Sequence[tuple[list[int], list[int]]]) -> list[torch.Tensor]:
    """Score a batch that is padded on the right, as a loop of a few lines does."""
    width = max(len(before) + len(after) for before, after in asked)
    inputs = torch.tensor([[*before, *after, *[0] * (width - len(before) - len(after))] for before, after in asked])
    logprobs = model(input_ids=inputs[:, :-1], use_cache=False).logits.log_softmax(-1)
    taken = logprobs.gather(-1, inputs[:, 1:, None])[..., 0]
    return [taken[i, len(b) - 1 : len(b) + len(a) - 1] for i, (b, a) in enumerate(asked)]


def _harness(arguments: argparse.Namespace) -> Way:
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=arguments.model, device="cpu", dtype="float32", batch_size=arguments.batch)
    return lambda asked: model._loglikelihood_tokens([(("", ""), b, a) for b, a in asked], disable_tqdm=True)


if __name__ == "__main__":
    main()
