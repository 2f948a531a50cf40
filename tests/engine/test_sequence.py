"""Progress of one request over the chunk grid."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.cache.block_pool import BLOCK
from pipeline.engine.sequence import Sequence
from tests.engine.small.tiny_models import request


@given(st.integers(1, 500))
def test_chunks_lie_on_the_grid_and_cover_the_prompt(length: int) -> None:
    sequence, starts = Sequence(request("a", [1] * length), 5), list[int]()
    while not sequence.decoding:
        starts.append(sequence.prefilled)
        sequence.prefilled += sequence.next_chunk()
    assert starts == list(range(0, length, BLOCK))
    assert sequence.prefilled == sequence.prompt_len == length


@given(st.integers(1, 500), st.integers(1, 500))
def test_its_blocks_hold_all_but_the_last_token(prompt: int, new: int) -> None:
    blocks = Sequence(request("a", [1] * prompt), new).blocks_needed
    assert (blocks - 1) * BLOCK < prompt + new - 1 <= blocks * BLOCK


def test_a_restarted_sequence_is_as_new() -> None:
    fresh, used = (Sequence(request("a", [1] * 70), 5, digests=(b"x", b"y")) for _ in range(2))
    used.slot, used.blocks, used.prefilled = 3, [7, 1, 4], 70
    used.generated += [5, 6]
    used.restart()
    assert vars(used) == vars(fresh)


def test_equal_requests_are_different_sequences() -> None:
    assert Sequence(request("a", [1]), 5) != Sequence(request("a", [1]), 5)
