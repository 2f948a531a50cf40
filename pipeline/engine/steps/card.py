"""Plans a GPU's memory: measures what a step of the largest shape takes, instead of guessing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from pipeline.engine.cache.block_pool import blocks_for
from pipeline.engine.cache.kv_cache import block_bytes
from pipeline.engine.cache.memory import MemoryPlan, out_of_memory, plan_memory
from pipeline.engine.config import StatsConfig
from pipeline.engine.model.load import LoadedModel
from pipeline.engine.model.tokenizer import Tokenizer
from pipeline.engine.rules.structured import Grammars
from pipeline.engine.steps.graphs import GraphStepper
from pipeline.engine.steps.runner import ModelRunner
from pipeline.engine.steps.slots import SlotState

MARGIN = 0.94
"""Fraction of the memory that may be planned. The rest is for the CUDA context, code, and gaps between allocations."""
RULE_TENSORS = 8
"""Most float tensors of [sequences, vocabulary] that masks and penalties hold at once; two of them are permanent."""
RECORDED = 2
"""Copies of a step's tensors: one for recorded steps, one for steps that are launched kernel by kernel."""


def card_bytes(free: int, total: int, own: int, share: float) -> int:
    """Return the bytes that this process may still allocate on a GPU.

    Args:
        free: Free bytes of the GPU.
        total: All bytes of the GPU.
        own: Bytes that this process holds.
        share: Fraction of the GPU for this process. The fractions of other processes may still be free.
    """
    return max(0, min(free, int(total * share) - own))


@dataclass(slots=True)
class _Peak:
    bytes: int = 0


@contextmanager
def peak(device: torch.device) -> Iterator[_Peak]:
    """Measure the peak memory of tensors within the context, beyond what they took before; 0 without a GPU."""
    found = _Peak()
    if device.type != "cuda":
        yield found
        return
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield found
    torch.cuda.synchronize()
    found.bytes = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()


@torch.inference_mode()
def step_bytes(
    loaded: LoadedModel, tokenizer: Tokenizer, stats: StatsConfig, sequences: int, max_len: int, most_tokens: int
) -> int:
    """Return the bytes that the largest step takes temporarily, measured by a dry run."""
    runner = ModelRunner(loaded, sequences, max_len, blocks=1)
    grammars = Grammars(tokenizer, loaded.vocab_size, loaded.eos_token_ids, 1)
    state = SlotState(sequences, max_len, loaded.vocab_size, loaded.device, tokenizer, grammars)
    stepper = GraphStepper(runner, state, stats)
    with peak(loaded.device) as found:
        stepper.rehearse(most_tokens)
    return found.bytes


def plan_card(
    loaded: LoadedModel, tokenizer: Tokenizer, stats: StatsConfig, *, wanted: int | None, most: int, max_len: int,
    most_tokens: Callable[[int], int], available: Callable[[], int],
) -> MemoryPlan:  # fmt: skip
    """Plan as many sequences and blocks as the GPU's memory holds.

    Args:
        loaded: The model, on the GPU.
        tokenizer: Its tokenizer.
        stats: Which statistics are computed.
        wanted: Sequences to run at once; None: as many as increase the throughput and fit.
        most: The batch size beyond which the throughput no longer grows.
        max_len: Tokens of the longest sequence.
        most_tokens: Returns the most tokens of a step with this many sequences.
        available: Returns the bytes that may still be allocated. It is called after libraries and kernels have allocated
            theirs.

    Raises:
        ModelRefused: If not even one sequence fits.
    """
    sequences = wanted or most
    while True:
        try:
            taken = step_bytes(loaded, tokenizer, stats, sequences, max_len, most_tokens(sequences))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or sequences == 1:
                raise
            sequences //= 2
            continue
        break
    state = 2 * 8 * max_len  # its tokens and its noise
    return plan_memory(
        sequences, sequences, blocks_for(max_len),
        block_bytes=block_bytes(loaded.layers, loaded.kv_heads, loaded.head_dim, loaded.kv_dtype),
        step_bytes=RECORDED * taken, sequence_bytes=4 * RULE_TENSORS * loaded.vocab_size + state,
        available=available(), margin=MARGIN,
    )  # fmt: skip
