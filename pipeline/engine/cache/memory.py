"""How many sequences fit: the memory there is, less what the model and a step need."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import ModelRefused

_TORCH_SAYS = ("can't allocate memory", "std::bad_alloc", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""How torch's allocator and what it is built on put it: on a processor, then a GPU's driver, Triton and its library."""
_LIKELY = 6
"""Blocks that a sequence is likely to use: 192 positions."""
_LIKELY_SHARE = 0.25
"""Share of the memory that is taken for them at the most."""
_POSITION_BYTES = 256
"""Bytes that a position takes at least: in the tables of rotary embeddings, in the cache, and in a slot."""
_MARGIN = 0.8
"""Share of the memory that may be planned: the rest is for the process, Arrow and the system."""


def check_length(max_len: int, available: int | None, source: str) -> None:
    """Refuse a context that memory cannot hold whatever the model is, before anything is allocated for it.

    Args:
        max_len: Longest prompt plus generation, tokens.
        available: Bytes that may be taken; None: unknown.
        source: Where the number comes from.

    Raises:
        ModelRefused: If not even one sequence of that length fits.
    """
    needed, gib = max_len * _POSITION_BYTES, 2**30
    # what is less is told more exactly once the model is loaded
    if available is not None and needed > max(available, gib):
        raise ModelRefused(
            f"{source}: one sequence of {max_len} tokens needs {needed / gib:.0f} GiB at least, and {available / gib:.2f} GiB "
            "are free; set engine.max_model_len to what your prompts and completions need"
        )


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How many sequences may run at once, and how many blocks their cache has."""

    sequences: int
    blocks: int


def plan_memory(
    wanted: int | None, most: int, longest_blocks: int, *,
    block_bytes: int, sequence_bytes: int, step_bytes: int, available: int | None, margin: float = _MARGIN,
) -> MemoryPlan:  # fmt: skip
    """Plan the cache for the memory that is left once the weights are loaded.

    Blocks are for the longest sequences there may be; shorter ones leave room for more. Blocks that are never used take
    no memory on a processor.

    Args:
        wanted: Sequences to run at once; null: as many as gain anything and fit.
        most: How many gain anything.
        longest_blocks: Blocks of the longest sequence.
        block_bytes: Bytes of a block in all layers.
        sequence_bytes: Bytes that a step's tensors take for each sequence: activations, logits and their copies.
        step_bytes: Bytes that a step takes however many sequences there are.
        available: Bytes that may still be taken; null: unknown, so take what is wanted.
        margin: Share of them that may be planned.

    Raises:
        ModelRefused: If not even one sequence fits.
    """
    sequences = wanted or most
    if available is None:
        return MemoryPlan(sequences, sequences * longest_blocks)
    room = available * margin - step_bytes
    longest = longest_blocks * block_bytes
    if room < longest + sequence_bytes:
        gib = 2**30
        raise ModelRefused(
            f"engine: one sequence needs {longest / gib:.2f} GiB of KV cache and {(sequence_bytes + step_bytes) / gib:.2f} GiB "
            f"for a step, and {available / gib:.2f} GiB are free; lower engine.max_model_len or cluster.replicas, "
            "or take a smaller model"
        )
    # a step's tensors take at most half of what the longest sequence leaves, so that blocks remain to be worth them
    sequences = min(sequences, max(1, int((room - longest) / 2 // sequence_bytes)))
    blocks = int((room - sequences * sequence_bytes) // block_bytes)
    return MemoryPlan(sequences, min(blocks, sequences * longest_blocks))


def likely_blocks(plan: MemoryPlan, expected: int | None, *, block_bytes: int, available: int | None) -> int:
    """How many blocks a run is likely to use, so that their memory may be taken at once.

    Args:
        plan: What is planned.
        expected: Sequences that there will be, about; null: any number.
        block_bytes: Bytes of a block in all layers.
        available: Bytes that may still be taken, of which this is a part; null: unknown.
    """
    sequences = plan.sequences if expected is None else min(plan.sequences, expected)
    room = plan.blocks if available is None else int(available * _LIKELY_SHARE / block_bytes)
    return min(plan.blocks, sequences * _LIKELY, room)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory did not suffice."""
    import torch  # late: a driver plans without it

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _TORCH_SAYS)
    )
