"""transformers beside us: `generate` in static batches, and its continuous batching. Both time-boxed, statistics off.

It does not know promptmill's engine.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks.gpu.device import Cpu, Cuda
from benchmarks.parts.workload import Work


@dataclass(frozen=True, slots=True)
class Run:
    """What a run came to.

    Attributes:
        tokens: Generated tokens that were asked for.
        seconds: By the clock, to the last one.
        wanted: Tokens of the whole workload; more than `tokens` where the run was cut short.
    """

    tokens: int
    seconds: float
    wanted: int

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def note(self) -> str:
        """Says so where it was cut short."""
        return "" if self.tokens == self.wanted else f"cut short: {100 * self.tokens / self.wanted:.0f} % of the tokens"


def static(model: Any, work: Work, batch: int, device: Cpu | Cuda, seconds: float) -> Run:
    """`generate` in batches sorted by output length: the middle ones first, so that a run cut short is about typical."""
    ordered = sorted(work, key=lambda request: request[1])
    batches = [ordered[first : first + batch] for first in range(0, len(ordered), batch)]
    batches = [batches[i] for i in sorted(range(len(batches)), key=lambda i: abs(i - len(batches) // 2))]
    wanted = sum(new for _, new in work)
    _batch(model, [(prompt, min(new, 3)) for prompt, new in batches[0]], device)  # a warm-up
    device.synchronize()
    start, tokens = time.perf_counter(), 0
    for group in batches:
        tokens += _batch(model, group, device)
        device.synchronize()
        if time.perf_counter() - start > seconds:
            break
    return Run(tokens, time.perf_counter() - start, wanted)


def _batch(model: Any, group: Work, device: Cpu | Cuda) -> int:
    """One padded batch to its longest request's end; tokens past a request's own end do not count."""
    width, new = max(len(prompt) for prompt, _ in group), max(count for _, count in group)
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt, _ in group], device=device.kind)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in group], device=device.kind)
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=True, temperature=1.0,
            top_k=0, top_p=1.0, pad_token_id=0,
        )  # fmt: skip
    return sum(min(count, out.shape[1] - width) for _, count in group)


def continuous(model: Any, work: Work, seqs: int, device: Cpu | Cuda, seconds: float) -> Run:
    """Continuous batching, each request with its own length; `generate_batch` has one for all.

    A run that is cut short counts what its unfinished requests had come to.

    Raises:
        RuntimeError: If its thread ended before the work did.
    """
    config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=max(new for _, new in work),
        eos_token_id=-1, pad_token_id=0,
    )  # fmt: skip
    batching = ContinuousBatchingConfig(max_requests_per_batch=seqs, max_memory_percent=0.6)
    if device.kind == "cpu":  # where it does not see how much memory there is
        batching.num_blocks, batching.max_batch_tokens, batching.block_size = 64, 512, 64
    before = model.config._attn_implementation
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer versions want no prefix, and take it all the same
        model.set_attn_implementation("paged|sdpa")  # else it looks for flash attention, on the hub too
    manager = model.init_continuous_batching(generation_config=config, continuous_batching_config=batching)
    try:
        manager.start()
        _collect(manager, [(prompt[::-1], 2) for prompt, _ in work[:seqs]], 60)  # a warm-up
        start = time.perf_counter()
        tokens, left = _collect(manager, work, seconds)
        ended = time.perf_counter() - start
        if left:
            manager.stop(block=True, timeout=30, hard_stop=True)
            while (result := manager.get_result(timeout=0.2)) is not None:
                tokens += len(result.generated_tokens)
        return Run(tokens, ended, sum(new for _, new in work))
    finally:
        if manager.is_running():
            manager.stop(block=True, timeout=30, hard_stop=True)
        model.set_attn_implementation(before)


def _collect(manager: Any, work: Work, seconds: float) -> tuple[int, int]:
    """Queue requests and wait for their ends: (tokens of those that ended in time, how many did not)."""
    deadline, tokens, left = time.perf_counter() + seconds, 0, len(work)
    for prompt, new in work:
        manager.add_request(prompt, max_new_tokens=new, eos_token_id=-1)
    while left and time.perf_counter() < deadline:
        result = manager.get_result(timeout=0.2)
        if result is None:
            if not manager.is_running():
                raise RuntimeError(f"transformers' thread ended with {left} requests to go")
        elif result.is_finished():
            if result.error is not None:
                raise RuntimeError(f"transformers: {result.error}")
            tokens, left = tokens + len(result.generated_tokens), left - 1
    return tokens, left
