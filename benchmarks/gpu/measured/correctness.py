"""Are the numbers right: tokens, log-probabilities, entropies and ranks against transformers in float64 on the processor.

The reference has the same rounded weights, and is given the tokens that the engine chose. In 16 bits the engine is held
against transformers' own 16-bit pass on the same device: its errors may be half as large again. It does not know the kernels.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks.gpu.bench import DEMO, Bench, finish
from pipeline.types import Completion, Request, SamplingParams

FLOAT32 = 1e-4
"""Largest error in float32: ‖ours - float64‖ / ‖float64‖."""
FLOAT32_LOGITS = 1e-3
"""Error of a logit in float32 that a rank or a greedy token may show."""
LIKE_TRANSFORMERS = 1.5
"""Times the error that transformers' own pass in the same type has."""
INT8 = 0.05
"""Largest error with 8-bit keys and values, and with 8-bit weights as well; ranks and greedy tokens are only told."""
FLOOR = 1e-4
"""Below it no error is too large: the measures' own rounding."""
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Measured:
    """One value for each generated token of all completions, [G], in nats; `ranks` from 1."""

    logprobs: Array
    entropies: Array
    ranks: Array


def check(bench: Bench) -> None:
    """Compare the small model and the embedded one in each type, then with an 8-bit cache."""
    for name, model in (("small", bench.small), ("demo", DEMO)):
        for dtype in ("float32", "bfloat16", "float16"):
            _compare(bench, f"{name} {dtype}", model, dtype, {})
        _compare(bench, f"{name} float32, int8 cache", model, "float32", {"kv_cache_dtype": "int8"})
    bench.close()


def _compare(bench: Bench, label: str, model: Path, dtype: str, loading: dict[str, str]) -> None:
    built = bench.engine(model, seqs=bench.scale.prompts // 2, dtype=dtype, loading=loading)
    asked = requests(bench.scale.prompts, bench.scale.new, vocab=built.tokenizer.vocab_size, longest=100)
    done = list(finish(built.engine, asked).values())
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), attn_implementation="eager")
    logits = teacher_forced(reference.eval().to(torch.float64), done, "cpu")
    exact, found = measured(logits, done), ours(done)
    limits, slack = (
        {"logprobs": INT8 if loading else FLOAT32, "entropies": INT8 if loading else FLOAT32},
        FLOAT32_LOGITS,
    )
    if dtype != "float32":
        other = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), attn_implementation="sdpa")
        theirs = teacher_forced(other.eval().to(bench.device.kind), done, bench.device.kind)
        limits = {
            key: max(FLOOR, LIKE_TRANSFORMERS * value) for key, value in errors(measured(theirs, done), exact).items()
        }
        slack = LIKE_TRANSFORMERS * max(float((a - b).abs().max()) for a, b in zip(theirs, logits, strict=True))
    found_errors, outside = errors(found, exact), ranks_outside(found.ranks, logits, done, slack)
    same, gap = greedy(done, logits)
    good = all(found_errors[key] <= limits[key] for key in limits)  # a NaN is not
    good = good and (bool(loading) or (outside == 0 and gap <= 2 * slack))
    note = (
        f"log-p ≤ {limits['logprobs']:.2g}; entropies {found_errors['entropies']:.2g} ≤ {limits['entropies']:.2g}; "
        f"ranks {100 * (1 - outside):.4g} % right; greedy {100 * same:.4g} % same, gap {gap:.1g} ≤ {2 * slack:.1g}"
    )
    bench.report.row(label, found_errors["logprobs"], "error", note, good)


def requests(count: int, new: int, *, vocab: int, longest: int) -> list[Request]:
    """Half greedy, half sampled, with prompts of random tokens."""
    draw = random.Random(0)
    return [
        Request(
            f"row {i}", 0, tuple(draw.randrange(1, vocab) for _ in range(draw.randint(1, longest))),
            SamplingParams(temperature=i % 2, max_tokens=new, ignore_eos=True, seed=i),
        )
        for i in range(count)
    ]  # fmt: skip


@torch.inference_mode()
def teacher_forced(model: Any, done: list[Completion], device: str) -> list[torch.Tensor]:
    """A model's logits at the positions that each completion's tokens were chosen at: float64 [G, V] on the processor."""
    kept = []
    for completion in done:
        prompt = completion.request.prompt_token_ids
        ids = torch.tensor([[*prompt, *completion.token_ids[:-1]]], device=device)
        kept.append(model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 :].cpu().double())
    return kept


def measured(logits: list[torch.Tensor], done: list[Completion]) -> Measured:
    """What logits say of the tokens that were generated."""
    parts = []
    for rows, completion in zip(logits, done, strict=True):
        log_p, chosen = rows.log_softmax(-1), _chosen(rows, completion)
        parts.append((
            log_p.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1),
            (rows > chosen).sum(-1) + 1,
        ))  # fmt: skip
    return Measured(*(torch.cat(column).double().numpy() for column in zip(*parts, strict=True)))


def ours(done: list[Completion]) -> Measured:
    """What the engine wrote."""
    names = ("token_logprobs", "token_entropies", "token_ranks")
    columns = [np.concatenate([np.asarray(c.statistics[name], np.float64) for c in done]) for name in names]
    return Measured(*columns)


def errors(found: Measured, exact: Measured) -> dict[str, float]:
    """‖found - exact‖ / ‖exact‖."""
    return {
        name: float(np.linalg.norm(getattr(found, name) - getattr(exact, name)) / np.linalg.norm(getattr(exact, name)))
        for name in ("logprobs", "entropies")
    }


def ranks_outside(ranks: Array, logits: list[torch.Tensor], done: list[Completion], slack: float) -> float:
    """Share of the ranks that no error of `slack` in each logit explains."""
    low, high = [], []
    for rows, completion in zip(logits, done, strict=True):
        chosen = _chosen(rows, completion)
        low.append((rows > chosen + 2 * slack).sum(-1) + 1)
        high.append((rows >= chosen - 2 * slack).sum(-1))
    return float(((ranks < torch.cat(low).numpy()) | (ranks > torch.cat(high).numpy())).mean())


def greedy(done: list[Completion], logits: list[torch.Tensor]) -> tuple[float, float]:
    """Share of the greedy tokens that are the reference's own, and the most by which another's logit is below its best."""
    gaps = [
        rows.amax(-1) - _chosen(rows, completion)[:, 0]
        for completion, rows in zip(done, logits, strict=True)
        if completion.request.sampling.temperature == 0
    ]
    every = torch.cat(gaps)
    return float((every == 0).double().mean()), float(every.max())


def _chosen(rows: torch.Tensor, completion: Completion) -> torch.Tensor:
    """The chosen tokens' logits, [G, 1]."""
    return rows.gather(-1, torch.tensor(completion.token_ids)[:, None])
