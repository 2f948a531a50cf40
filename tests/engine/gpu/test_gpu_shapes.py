"""Steps of any size in a few shapes: everything is in its place, and the rest is nobody's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.cache.block_pool import blocks_for
from pipeline.engine.scheduler import Chunk, Step, Twin
from pipeline.engine.sequence import Sequence
from pipeline.engine.steps.shapes import (
    IDLE,
    LARGE,
    Fields,
    Shape,
    pack_rows,
    pack_tokens,
    rounded,
    shape_of,
    whole_splits,
)
from tests.engine.small.tiny_models import request

NOBODY = 99


@given(count=st.integers(1, 5000), unit=st.sampled_from([1, 8, 32, 64, 256]))
def test_sizes_are_few_and_little_is_wasted(count: int, unit: int) -> None:
    size = rounded(count, unit)
    assert size >= count and size % unit == 0
    assert size - count < max(unit if count <= LARGE else max(unit, LARGE), count / 8 + 1)


def test_sizes_are_few() -> None:
    assert len({rounded(n, 1) for n in range(1, 2049)}) < 90
    assert {rounded(n, 64) for n in range(1, 2049)} == {64, 128, 192, *(256 * n for n in range(1, 9))}
    assert {rounded(n, 256) for n in range(1, 2049)} == {256 * n for n in range(1, 9)}
    assert rounded(0, 64) == 64


@given(blocks=st.integers(1, 300), split=st.sampled_from([1, 8, 16]))
def test_splits_cover_all_blocks(blocks: int, split: int) -> None:
    splits = whole_splits(blocks, split)
    assert splits * split >= blocks and splits & (splits - 1) == 0 and (splits == 1 or splits // 2 * split < blocks)


def decoding(slot: int, prompt: int, generated: int, in_flight: int = 0) -> Sequence:
    one = Sequence(request(str(slot), [1] * prompt), 50, slot=slot, prefilled=prompt, generated=[2] * generated)
    one.in_flight = in_flight
    return one


def test_a_step_is_described() -> None:
    a, b = decoding(3, 5, 2), decoding(0, 40, 1, in_flight=1)
    c, d = (Sequence(request("c", [1] * 40), 50, slot=slot) for slot in (7, 8))
    twin = Sequence(c.request, 50, slot=2)
    step = Step([b, a], [Chunk(c, 32, 8), Chunk(d, 0, 3)], [Twin(twin, c)])
    shape = shape_of(step, 8, split=1)
    assert shape == Shape(tokens=16, chunks=2, choosing=8, splits=2)
    packed, fields = pack_tokens(step, shape, NOBODY), Fields(shape)
    assert packed[fields.slots].tolist() == [0, 3, *[7] * 8, *[8] * 3, *[NOBODY] * 3]
    assert packed[fields.positions].tolist() == [41, 6, *range(32, 40), 0, 1, 2, *[IDLE] * 3]
    assert packed[fields.decodes].tolist() == [2]
    assert packed[fields.chunks].tolist() == [2, 8, 32, 7, 10, 3, 0, 8]
    assert packed[fields.keep].tolist() == [0, 1, 9, 9, 0, 0, 0, 0]  # the twin takes its leader's
    rows = pack_rows(step.choosing, shape.choosing, NOBODY)
    assert rows.tolist() == [
        [0, 3, 7, 2, *[NOBODY] * 4], [2, 2, 0, 0, *[0] * 4], [42, 7, 40, 40, *[0] * 4]
    ]  # fmt: skip
    assert fields.size == len(packed) == 16 + 16 + 1 + 8 + 8


def test_many_short_prompts_find_room() -> None:
    ones = [Sequence(request(str(i), [1, 2]), 5, slot=i) for i in range(20)]
    step = Step([], [Chunk(s, 0, 2) for s in ones], [])
    shape = shape_of(step, 1, split=1)
    assert shape.chunks >= 20 and shape.tokens >= 40
    assert pack_tokens(step, shape, NOBODY)[Fields(shape).chunks].reshape(-1, 4)[:20, 3].tolist() == list(range(20))


def test_a_step_that_only_decodes_has_no_chunks_and_one_that_only_reads_chooses_nothing() -> None:
    assert shape_of(Step([decoding(0, 5, 1)], [], []), 256, split=16) == Shape(256, 0, 256, 1)
    reads = Step([], [Chunk(Sequence(request("a", [1] * 90), 5, slot=1), 0, 32)], [])
    assert shape_of(reads, 256, split=16) == Shape(256, 32, 0, 1)
    longest = decoding(0, 5, 700)
    assert blocks_for(longest.position + 1) == 23 and shape_of(Step([longest], [], []), 256, split=16).splits == 2
