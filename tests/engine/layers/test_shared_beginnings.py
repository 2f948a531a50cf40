"""Sequences of one step that begin with the same blocks, whose keys and values the compiled attention reads together."""

from __future__ import annotations

from random import Random

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.cache.block_pool import BLOCK
from pipeline.engine.cache.kv_cache import KVCache
from pipeline.engine.layers.attention import NativeLayout, step_layout
from tests.engine.small.attention_cases import DIMS, DTYPES, HEADS, Case, assert_exact, make_case, needs_kernels
from tests.engine.test_native import Run, run, same
from tests.example_counts import examples

pytestmark = needs_kernels


def share(case: Case, row: int, leader: int, blocks: int) -> None:
    """Let a sequence begin with blocks of another one's past."""
    case.tables[row, :blocks] = case.tables[leader, :blocks]
    for past in (case.past_k, case.past_v):
        past[row][: blocks * BLOCK] = past[leader][: blocks * BLOCK]


@st.composite
def families(draw: st.DrawFn) -> Case:
    """Steps in which every sequence decodes, and begins like one before it, for some blocks or none."""
    pasts = draw(
        st.lists(st.one_of(st.integers(0, 200), st.sampled_from([31, 32, 63, 64, 96])), min_size=2, max_size=20)
    )
    heads, dim, dtype = draw(st.sampled_from(HEADS)), draw(st.sampled_from(DIMS)), draw(st.sampled_from(DTYPES))
    case = make_case(draw(st.integers(0, 2**31)), [(past, 1) for past in pasts], heads, dim, dtype)
    for row in range(1, len(pasts)):
        leader = draw(st.integers(0, row - 1))
        most = min(pasts[row], pasts[leader]) // BLOCK
        share(case, row, leader, draw(st.sampled_from([0, most // 2, most])))
    return case


@settings(max_examples=examples(150), deadline=None)
@given(families(), st.integers(1, 4), st.randoms(use_true_random=False))
def test_each_gets_the_bits_that_it_gets_alone(case: Case, threads: int, order: Random) -> None:
    """In the order in which they come and in any other, whatever the threads, and what is written is the same, too."""
    apart: Run = run(case, [[spot] for spot in case.spots], alone=True)
    assert_exact(case, apart[0])
    assert all(same(a, b) for a, b in zip(run(case, alone=True, threads=threads), apart, strict=True))
    mixed = case.spots
    order.shuffle(mixed)
    assert all(same(a, b) for a, b in zip(run(case, [mixed], alone=True, threads=threads), apart, strict=True))
    assert all(same(a, b) for a, b in zip(run(case, threads=threads), apart, strict=True))


def test_what_begins_alike_is_read_together() -> None:
    """Whatever lies between them: the step puts those that begin with one block beside each other."""
    torch.set_num_threads(1)
    case = make_case(0, [(70, 1)] * 8, (2, 2), 16, torch.float32)
    for row in range(2, 8):
        share(case, row, row % 2, 2)  # two families, one after the other in turn
    cache = KVCache(1, len(case.keys), 2, 16, torch.float32, torch.device("cpu"))
    layout = step_layout(cache, case.spots, case.tables, decodes=8, compiled=True)
    assert isinstance(layout, NativeLayout)
    layout.attend(0, case.q, case.k, case.v, case.scale)
    step = layout.step
    assert [slot for *_, slot in step._chunks.tolist()] in ([0, 2, 4, 6, 1, 3, 5, 7], [1, 3, 5, 7, 0, 2, 4, 6])
    assert step._runs[:3].tolist() == [0, 4, 8]
