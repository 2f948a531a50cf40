"""How many sequences and blocks fit, and what is taken for memory that did not suffice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.cache.memory import MemoryPlan, likely_blocks, out_of_memory, plan_memory
from pipeline.errors import ModelRefused

SIZES = st.integers(1, 10**9)


@given(
    wanted=st.one_of(st.none(), st.integers(1, 4096)), longest=st.integers(1, 4096), block=SIZES, sequence=SIZES,
    step=st.integers(0, 10**10), available=st.integers(0, 10**13),
)  # fmt: skip
def test_what_is_planned_fits_and_nothing_more_would(
    wanted: int | None, longest: int, block: int, sequence: int, step: int, available: int
) -> None:
    room, most = 0.8 * available - step, wanted or 128
    try:
        plan = plan_memory(
            wanted, 128, longest, block_bytes=block, sequence_bytes=sequence, step_bytes=step, available=available
        )
    except ModelRefused as refused:
        assert longest * block + sequence > room
        assert "\n" not in str(refused) and "engine.max_model_len" in str(refused)
        return
    assert 1 <= plan.sequences <= most
    assert longest <= plan.blocks <= plan.sequences * longest, "the longest sequence always runs"
    assert plan.sequences * sequence + plan.blocks * block <= room
    assert plan.sequences == most or (plan.sequences + 1) * sequence > (room - longest * block) / 2
    assert plan.blocks == plan.sequences * longest or plan.sequences * sequence + (plan.blocks + 1) * block > room


def test_a_refusal_tells_what_there_is_and_what_is_needed() -> None:
    with pytest.raises(ModelRefused) as refused:
        plan_memory(4, 8, 10, block_bytes=2**30, sequence_bytes=2**29, step_bytes=2**31, available=2**33)
    assert str(refused.value) == (
        "engine: one sequence needs 10.00 GiB of KV cache and 2.50 GiB for a step, and 8.00 GiB are free; "
        "lower engine.max_model_len or cluster.replicas, or take a smaller model"
    )
    with pytest.raises(
        ModelRefused, match=r"engine\.max_model_len, engine\.max_num_batched_tokens or cluster\.replicas"
    ):
        plan_memory(4, 8, 1, block_bytes=2**20, sequence_bytes=2**20, step_bytes=2**33, available=2**32)


@pytest.mark.parametrize(("wanted", "planned"), [(None, 128), (64, 64), (4096, 4096)])
def test_unknown_memory_is_no_limit(wanted: int | None, planned: int) -> None:
    plan = plan_memory(wanted, 128, 7, block_bytes=10**12, sequence_bytes=1, step_bytes=0, available=None)
    assert plan == MemoryPlan(planned, planned * 7)


@given(
    sequences=st.integers(1, 4096), blocks=st.integers(1, 10**6), expected=st.one_of(st.none(), st.integers(0, 10**6)),
    size=SIZES, available=st.one_of(st.none(), st.integers(0, 10**13)),
)  # fmt: skip
def test_what_is_taken_at_once_is_planned_wanted_and_a_part_of_what_is_free(
    sequences: int, blocks: int, expected: int | None, size: int, available: int | None
) -> None:
    found = likely_blocks(MemoryPlan(sequences, blocks), expected, block_bytes=size, available=available)
    assert 0 <= found <= blocks
    assert expected is None or found <= 6 * expected
    assert available is None or found * size <= available / 4


def test_what_says_that_memory_did_not_suffice() -> None:
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(MemoryError) as pythons:
        bytearray(2**62)
    assert out_of_memory(torchs.value) and out_of_memory(pythons.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert out_of_memory(RuntimeError("std::bad_alloc"))


@pytest.mark.parametrize("error", [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("can't allocate memory"), OSError("memory"),
    RuntimeError(), KeyboardInterrupt(),
])  # fmt: skip
def test_what_does_not(error: BaseException) -> None:
    assert not out_of_memory(error)
