"""Progress of one request over the chunk grid."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tiny_models import request

from pipeline.engine.sequence import CHUNK, Sequence


@given(st.integers(1, 500))
def test_chunks_lie_on_the_grid_and_cover_the_prompt(length: int) -> None:
    sequence, starts = Sequence(request("a", [1] * length), 5), list[int]()
    while not sequence.decoding:
        starts.append(sequence.prefilled)
        sequence.prefilled += sequence.next_chunk()
    assert starts == list(range(0, length, CHUNK))
    assert sequence.prefilled == sequence.prompt_len == length


def test_equal_requests_are_different_sequences() -> None:
    assert Sequence(request("a", [1]), 5) != Sequence(request("a", [1]), 5)
