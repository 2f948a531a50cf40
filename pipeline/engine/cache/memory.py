"""Computes how many sequences fit into the memory that the model and a step leave."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.cache.block_pool import blocks_for
from pipeline.errors import ModelRefused

_TORCH_SAYS = ("can't allocate memory", "std::bad_alloc", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Out-of-memory messages of torch and its libraries: on a CPU, and on a GPU from the driver, Triton and cuBLAS."""
_LIKELY = 6
"""Blocks that a sequence is likely to use: 192 positions."""
_LIKELY_SHARE = 0.25
"""Most of the memory that is allocated for them in advance, as a fraction."""
_POSITION_BYTES = 256
"""Least bytes per position: in the tables of rotary embeddings, in the cache, and in a slot."""
_MARGIN = 0.8
"""Fraction of the memory that may be planned: the rest is for the process, Arrow and the system."""


def check_length(max_len: int, available: int | None, source: str) -> None:
    """Refuse a context that memory cannot hold with any model, before anything is allocated for it.

    Args:
        max_len: Longest prompt plus generation, tokens.
        available: Bytes that may be taken; None: unknown.
        source: Where the number comes from.

    Raises:
        ModelRefused: If not even one sequence of that length fits.
    """
    needed, gib = max_len * _POSITION_BYTES, 2**30
    # smaller excesses are found exactly once the model is loaded
    if available is not None and needed > max(available, gib):
        raise ModelRefused(
            f"{source}: one sequence of {max_len} tokens needs {needed / gib:.0f} GiB at least, and {available / gib:.2f} GiB "
            "are free; set engine.max_model_len to what your prompts and completions need"
        )


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The number of sequences that may run at once, and the number of blocks of their cache."""

    sequences: int
    blocks: int


def plan_memory(
    wanted: int | None, most: int, longest_blocks: int, *,
    block_bytes: int, sequence_bytes: int, step_bytes: int, available: int | None, margin: float = _MARGIN,
) -> MemoryPlan:  # fmt: skip
    """Plan the cache for the memory that is left after the weights are loaded.

    The plan assumes sequences of the greatest length; shorter ones leave blocks for more sequences. On a CPU, unused blocks
    take no memory.

    Args:
        wanted: Sequences to run at once; None: as many as increase the throughput and fit.
        most: The batch size beyond which the throughput no longer grows.
        longest_blocks: Blocks of the longest sequence.
        block_bytes: Bytes of a block in all layers.
        sequence_bytes: Bytes that a step's tensors take for each sequence: activations, logits and their copies.
        step_bytes: Bytes that a step takes however many sequences there are.
        available: Bytes that may still be allocated; None: unknown, so plan what is wanted.
        margin: Fraction of them that may be planned.

    Raises:
        ModelRefused: If not even one sequence fits.
    """
    sequences = wanted or most
    if available is None:
        return MemoryPlan(sequences, sequences * longest_blocks)
    room = available * margin - step_bytes
    longest = longest_blocks * block_bytes
    if room < longest + sequence_bytes:
        gib, batch = 2**30, ", engine.max_num_batched_tokens" if step_bytes > longest else ""
        raise ModelRefused(
            f"engine: one sequence needs {longest / gib:.2f} GiB of KV cache and {(sequence_bytes + step_bytes) / gib:.2f} GiB "
            f"for a step, and {available / gib:.2f} GiB are free; lower engine.max_model_len{batch} or "
            "cluster.replicas, or take a smaller model"
        )
    # a step's tensors take at most half of what the longest sequence leaves, so that enough blocks remain for the batch
    sequences = min(sequences, max(1, int((room - longest) / 2 // sequence_bytes)))
    blocks = int((room - sequences * sequence_bytes) // block_bytes)
    return MemoryPlan(sequences, min(blocks, sequences * longest_blocks))


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model takes besides its weights on a CPU; see `plan_memory`.

    Attributes:
        most: Batch size beyond which throughput no longer grows.
        most_tokens: Most tokens of a step.
        block_bytes: Bytes of a block of the cache in all layers.
        sequence_bytes: Bytes that a step's tensors take for each sequence.
        token_bytes: Bytes that a step takes for each of its tokens.
    """

    most: int
    most_tokens: int
    block_bytes: int
    sequence_bytes: int
    token_bytes: int

    def plan(self, wanted: int | None, max_len: int, available: int | None) -> MemoryPlan:
        """Plan sequences and blocks for sequences of at most `max_len` tokens; see `plan_memory`."""
        return plan_memory(
            wanted, self.most, blocks_for(max_len), block_bytes=self.block_bytes, sequence_bytes=self.sequence_bytes,
            step_bytes=self.most_tokens * self.token_bytes, available=available,
        )  # fmt: skip


def held_by_blocks(blocks: int, plan: MemoryPlan, *, block_bytes: int, layers: int, page_bytes: int) -> int:
    """Return the bytes that the first `blocks` of a cache occupy on a CPU.

    The keys and the values of each layer lie apart, and each of these stretches begins and ends somewhere within a page: on
    average it occupies one page more than it has bytes.

    Args:
        blocks: Blocks in use.
        plan: The plan, which has all blocks.
        block_bytes: Bytes of a block in all layers.
        layers: Layers that keep keys and values.
        page_bytes: Size of a page.
    """
    return min(plan.blocks * block_bytes, blocks * block_bytes + 2 * layers * page_bytes)


def likely_blocks(plan: MemoryPlan, expected: int | None, *, block_bytes: int, available: int | None) -> int:
    """Return how many blocks a run is likely to use, so that their memory can be allocated in advance.

    Args:
        plan: The plan.
        expected: Approximate number of sequences in all; None: unknown.
        block_bytes: Bytes of a block in all layers.
        available: Bytes that may still be allocated, these included; None: unknown.
    """
    sequences = plan.sequences if expected is None else min(plan.sequences, expected)
    room = plan.blocks if available is None else int(available * _LIKELY_SHARE / block_bytes)
    return min(plan.blocks, sequences * _LIKELY, room)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device ran out of memory."""
    import torch  # imported late: a driver plans without it

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _TORCH_SAYS)
    )
