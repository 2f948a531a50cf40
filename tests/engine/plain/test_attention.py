"""Attention by torch's own operations: right to float32's rounding, and a sequence's bits are its own."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.cache.block_pool import BLOCK
from pipeline.engine.cache.kv_cache import key_scales
from pipeline.engine.plain import attention as plain_attention
from pipeline.engine.plain.attention import Spot, attend, batching_keeps_bits, write
from tests.engine.small.attention_cases import Case, assert_exact, cases
from tests.example_counts import examples

CPU = torch.device("cpu")


def written(case: Case) -> Case:
    """The case with its new tokens in the cache."""
    places = []
    for row, past in enumerate(case.pasts):
        for position in range(past, past + case.news[row]):
            places.append(int(case.tables[row, position // BLOCK]) * BLOCK + position % BLOCK)
    keys, values = case.keys.clone(), case.values.clone()
    write(keys, values, torch.tensor(places), case.k, case.v)
    return replace(case, keys=keys, values=values)


def run(case: Case, spots: list[Spot] | None = None) -> torch.Tensor:
    tokens, heads, dim = case.q.shape
    grouped = (case.q * case.scale).view(tokens, case.k.shape[1], -1, dim)
    return attend(grouped, case.keys, case.values, spots or case.spots, case.tables).view(tokens, heads, dim)


@settings(max_examples=examples(100), deadline=None)
@given(cases())
def test_it_is_attention_and_writes_only_what_is_new(case: Case) -> None:
    after = written(case)
    for found, expected in zip((after.keys, after.values), case.expected_cache(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert_exact(case, run(after))


@settings(max_examples=examples(60), deadline=None)
@given(cases(), st.integers(1, 4), st.data())
def test_a_sequences_bits_are_its_own(case: Case, threads: int, data: st.DataObject) -> None:
    """Alone, in any company, in any order, by any number of threads, whatever another's numbers are."""
    torch.set_num_threads(1)
    case = written(case)
    whole = run(case)
    some = data.draw(st.lists(st.sampled_from(case.spots), min_size=1, unique=True))
    torch.set_num_threads(threads)
    out = run(case, some)
    mine = torch.zeros(len(out), dtype=torch.bool)
    for first, length, _, _ in some:
        mine[first : first + length] = True
    assert torch.equal(out[mine], whole[mine])
    assert (out[~mine] == 0).all()
    row = data.draw(st.integers(0, len(case.news) - 1))
    others = torch.ones(len(out), dtype=torch.bool)
    others[case.firsts[row] : case.firsts[row] + case.news[row]] = False
    bad = data.draw(st.sampled_from([torch.nan, torch.inf, -torch.inf]))
    (key_scales(case.keys) if case.keys.dtype == torch.int8 else case.keys)[case.tables[row, 0]] = bad
    spoilt = run(case)
    assert torch.equal(spoilt[others], whole[others])
    assert spoilt[~others].isnan().all() or bad == bad


@settings(max_examples=examples(100), deadline=None)
@given(cases(), st.data())
def test_a_tokens_bits_do_not_depend_on_where_its_prompt_is_cut(case: Case, data: st.DataObject) -> None:
    """Nor on whether it is read with its prompt or decoded."""
    case = written(case)
    pieces: list[Spot] = []
    for first, length, start, row in case.spots:
        inner = data.draw(st.lists(st.integers(1, length - 1), unique=True)) if length > 1 else []
        edges = [0, *sorted(inner), length]
        pieces += [(first + a, b - a, start + a, row) for a, b in itertools.pairwise(edges)]
    assert torch.equal(run(case, data.draw(st.permutations(pieces))), run(case))


def test_products_that_round_by_the_number_of_rows_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles keep the number of rows; were it not so, the check would tell."""

    def products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        rows = (a != 0).any(-1, keepdim=True).sum(-2, keepdim=True)  # those with a token
        return torch.matmul(a, b) * (1 + 1e-6 * (rows % 3))

    monkeypatch.setattr(plain_attention, "_products", products)
    assert not batching_keeps_bits(1, 2, 16, CPU)


def test_this_machines_batched_products_keep_bits_or_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a @ b) * (1 + 1e-6 * (len(a) % 3))

    monkeypatch.setattr(plain_attention, "torch", type("T", (), {**vars(torch), "matmul": staticmethod(matmul)}))
    assert not batching_keeps_bits(1, 2, 16, CPU)
    monkeypatch.undo()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for groups, kv_heads, dim in ((1, 2, 16), (2, 2, 16), (1, 12, 64), (4, 4, 128), (7, 1, 8), (8, 1, 64)):
            assert batching_keeps_bits(groups, kv_heads, dim, CPU)
