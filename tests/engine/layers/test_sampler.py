"""Tokens against exact probabilities, and penalties against transformers' own processors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import chisquare
from transformers import (
    RepetitionPenaltyLogitsProcessor,
)

from pipeline.engine.layers.sampler import sample
from pipeline.engine.native.sampler import choose_tokens
from pipeline.engine.plain.sampler import SamplingRows, invert_cdf, penalise
from pipeline.types import PromptRow, SamplingParams
from tests.engine.small.attention_cases import needs_kernels
from tests.engine.small.sampling_cases import LAST, RULES, WAYS, Array, chosen_by, rows_of
from tests.engine.small.tiny_models import OLDER, Tiny, drain, kernels_of, random_prompts
from tests.example_counts import examples

MakeTiny = Callable[..., Tiny]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Tokens are chosen by the compiled kernel, then by torch's operations."""
    with chosen_by(request.param):
        yield request.param


def exact(
    logits: Array, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Array:  # fmt: skip
    """Probabilities in float64 by the definitions: sort, cut, renormalise."""
    p = softmax(logits.astype(np.float64) / temperature)
    p[p < min_p * p.max()] = 0
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    if top_k:
        p[order[top_k:]] = 0
        p /= p.sum()
    if top_p < 1:
        before = np.concatenate([[0], np.cumsum(p[order])[:-1]])
        p[order[before >= top_p]] = 0
    return p / p.sum()


def assert_drawn_from(p: Array, tokens: Array) -> None:
    """Chi-square, with rare tokens taken together; impossible tokens not once."""
    counts = np.bincount(tokens, minlength=len(p))
    assert counts[p == 0].sum() == 0
    order = np.argsort(-p)
    expected, found = p[order] * len(tokens), counts[order]
    common = expected >= 8
    rest = (found[~common].sum(), expected[~common].sum())
    if rest[1] < 8:  # too few for a class of their own
        common[np.count_nonzero(common) - 1] = False
        rest = (found[~common].sum(), expected[~common].sum())
    found, expected = np.append(found[common], rest[0]), np.append(expected[common], rest[1])
    if len(found) > 1:
        assert chisquare(found, expected * found.sum() / expected.sum()).pvalue > 1e-4


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("vocab", [300, 1500])
def test_draws_follow_the_exact_distribution(rule: dict[str, Any], vocab: int, way: str) -> None:
    rng = np.random.default_rng(vocab)
    logits = rng.normal(0, 3, vocab).astype(np.float32)
    draws = 20_000
    tokens = [
        sample(torch.from_numpy(logits).expand(1000, -1), rows_of(1000, vocab, uniform=rng.random(1000), **rule))
        for _ in range(draws // 1000)
    ]
    assert_drawn_from(exact(logits, **rule), torch.cat(tokens).numpy())


@pytest.mark.parametrize("rule", [{}, {"temperature": 2.0, "top_k": 50, "top_p": 0.9}, {"min_p": 0.05}], ids=str)
def test_samples_of_the_engine_follow_the_model(tiny: MakeTiny, rule: dict[str, Any]) -> None:
    """4000 samples of one row, against the float64 pass of transformers' model."""
    model = tiny()
    (prompt,) = random_prompts(8, [3])
    sampling = SamplingParams(n=4000, max_tokens=1, **{"temperature": 0.4, **rule})
    engine = model.engine(256, max_len=32, columns=[])
    done = drain(engine, PromptRow("a", None, tuple(prompt), sampling).requests())
    tokens = np.array([done["a", i].token_ids[0] for i in range(4000)])
    p = exact(model.exact_logits(prompt)[-1], **{"temperature": 0.4, **rule})
    assert_drawn_from(p, tokens)
    assert len(set(tokens.tolist())) > 3


def test_rows_samples_and_seeds_differ_and_repeat(tiny: MakeTiny) -> None:
    model = tiny()

    def ids(row: str, n: int, **changes: Any) -> list[tuple[int, ...]]:
        sampling = SamplingParams(n=n, **{"max_tokens": 12, "seed": 3, **changes}, temperature=4.0, ignore_eos=True)
        done = drain(model.engine(8), PromptRow(row, None, (7, 8), sampling).requests())
        return [done[row, i].token_ids for i in range(n)]

    first = ids("a", 20)
    assert len({*first, *ids("b", 20), *ids("a", 20, seed=4)}) == 60
    assert ids("a", 20) == first
    assert ids("a", 5) == first[:5]
    assert [t[:12] for t in ids("a", 20, max_tokens=40)] == first


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10))
def test_the_repetition_penalty_is_transformers(seed: int, penalty: float) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 4, (3, 60)).astype(np.float32))
    prompts, generated = rng.integers(0, 60, (3, 9)), rng.integers(0, 60, (3, 14))
    in_prompt, counts = torch.zeros(3, 60, dtype=torch.bool), torch.zeros(3, 60)
    for row in range(3):
        in_prompt[row, prompts[row]] = True
        np.add.at(counts.numpy()[row], generated[row], 1)
    zero = torch.zeros(3)
    ours = penalise(logits, counts, in_prompt, torch.full((3,), penalty), zero, zero)
    ids = torch.from_numpy(np.concatenate([prompts, generated], 1))
    theirs = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_presence_and_frequency_count_generated_tokens_only() -> None:
    logits, counts = torch.full((2, 5), 2.0), torch.tensor([[0.0, 1, 3, 0, 0]] * 2)
    in_prompt = torch.tensor([[True, True, False, False, False]] * 2)
    one, presence, frequency = torch.ones(2), torch.tensor([0.5, 0.0]), torch.tensor([0.0, 0.25])
    assert penalise(logits, counts, in_prompt, one, presence, frequency).tolist() == [
        [2.0, 1.5, 1.5, 2.0, 2.0], [2.0, 1.75, 1.25, 2.0, 2.0],
    ]  # fmt: skip


@settings(max_examples=examples(300), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), vocab=st.sampled_from([1, 2, 127, 128, 129, 300, 1000]),
    holes=st.sampled_from([0.0, 0.5, 0.99]), scale=st.sampled_from([1e-30, 1.0, 1e10]),
    uniform=st.one_of(st.sampled_from([0.0, 2.0**-53, 0.5, LAST]), st.floats(0, LAST)),
)  # fmt: skip
def test_a_token_without_probability_is_never_drawn(
    seed: int, vocab: int, holes: float, scale: float, uniform: float
) -> None:
    rng = np.random.default_rng(seed)
    p = np.where(rng.random((4, vocab)) < holes, 0, np.exp(rng.normal(0, 9, (4, vocab)))).astype(np.float32)
    p[:, int(rng.integers(vocab))] = 1
    p *= np.float32(scale)
    assert_inverted(p, invert_cdf(torch.from_numpy(p), torch.full((4,), uniform, dtype=torch.float64)).numpy(), uniform)


def assert_inverted(p: Array, tokens: Array, uniform: float) -> None:
    """The tokens have a probability, and are the right ones up to the rounding of the running sum."""
    rows = np.arange(len(p))
    assert (p[rows, tokens] > 0).all()
    cumulative = np.cumsum(p.astype(np.float64), -1)
    low, high = (cumulative - p)[rows, tokens], cumulative[rows, tokens]
    slack = 1e-5 * cumulative[:, -1]
    assert (low - slack <= uniform * cumulative[:, -1]).all()
    assert (uniform * cumulative[:, -1] <= high + slack).all()


@settings(max_examples=examples(300), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), vocab=st.sampled_from([1, 2, 15, 16, 17, 127, 128, 129, 300, 1000]),
    holes=st.sampled_from([0.0, 0.5, 0.99]), temperature=st.sampled_from([1.0, 0.25, 7.0]),
    uniform=st.one_of(st.sampled_from([0.0, 2.0**-53, 0.5, LAST]), st.floats(0, LAST)),
)  # fmt: skip
@pytest.mark.parametrize("way", WAYS)
def test_a_token_without_a_chance_is_never_drawn(
    way: str, seed: int, vocab: int, holes: float, temperature: float, uniform: float
) -> None:
    """As above, from logits, of which some are -inf."""
    rng = np.random.default_rng(seed)
    logits = np.where(rng.random((4, vocab)) < holes, -np.inf, rng.normal(0, 9, (4, vocab))).astype(np.float32)
    logits[:, int(rng.integers(vocab))] = 1
    rows = rows_of(4, vocab, temperature=temperature, uniform=np.full(4, uniform))
    with chosen_by(way):
        tokens = sample(torch.from_numpy(logits), rows).numpy()
    assert_inverted(softmax(logits.astype(np.float64) / temperature, -1), tokens, uniform)


@needs_kernels
@settings(max_examples=examples(60), deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 9), threads=st.integers(2, 4), vocab=st.sampled_from([5, 300, 5003]),
    rule=st.sampled_from(RULES),
)  # fmt: skip
def test_a_rows_token_and_threshold_are_its_own(
    seed: int, rows: int, threads: int, vocab: int, rule: dict[str, Any]
) -> None:
    """In company, alone, by several threads, and as a processor with shorter vectors draws them."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 3, (rows, vocab)).astype(np.float32))
    uniform = rng.random(rows)

    def run(part: slice) -> tuple[list[int], list[float]]:
        r = rows_of(len(uniform[part]), vocab, uniform=uniform[part], **rule)
        parameters = r.greedy, r.temperature, r.top_p, r.log_min_p, r.top_k.clamp(max=vocab), r.uniform
        tokens, least = choose_tokens(logits[part], *parameters)
        return tokens.tolist(), least.tolist()

    whole = run(slice(None))
    torch.set_num_threads(threads)
    assert run(slice(None)) == whole
    alone = [run(slice(i, i + 1)) for i in range(rows)]
    assert ([t for tokens, _ in alone for t in tokens], [x for _, least in alone for x in least]) == whole
    for level in OLDER:
        with kernels_of(level):
            assert run(slice(None)) == whole


def test_rows_that_are_no_distribution_draw_some_token() -> None:
    """Their completions end with an error; the draw must not leave the vocabulary."""
    for value in (torch.nan, torch.inf, -torch.inf):
        for rule in RULES:
            logits = torch.full((2, 300), value)
            logits[1, 5:] = 1.0
            assert all(0 <= t < 300 for t in sample(logits, rows_of(2, 300, **rule)).tolist())


@pytest.mark.parametrize("vocab", [1, 2, 128, 129, 50_257])
def test_the_ends_of_the_noise(vocab: int) -> None:
    p = torch.full((2, vocab), 1.0 / vocab)
    assert invert_cdf(p, torch.tensor([0.0, LAST], dtype=torch.float64)).tolist() == [0, vocab - 1]
    p[:, 0] = 0
    p[:, -1] = 0
    if vocab > 2:
        assert invert_cdf(p, torch.tensor([0.0, LAST], dtype=torch.float64)).tolist() == [1, vocab - 2]


def test_greedy_ties_go_to_the_lowest_id_and_forbidden_tokens_to_nobody(way: str) -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0, 0.0], [-torch.inf, -torch.inf, -torch.inf, -9.0]])
    assert sample(logits, rows_of(2, 4, temperature=0.0)).tolist() == [1, 3]
    for uniform in (0.0, 0.5, LAST):
        assert sample(logits, rows_of(2, 4, uniform=np.full(2, uniform))).tolist()[1] == 3


def test_greedy_and_sampled_rows_in_one_step(way: str) -> None:
    logits = torch.tensor([[0.0, 9.0, 8.9]] * 2)
    rows = rows_of(2, 3, uniform=np.full(2, LAST))
    mixed = SamplingRows(
        torch.tensor([True, False]), rows.temperature, rows.top_k, rows.top_p, rows.log_min_p, rows.uniform,
        truncates=False, all_greedy=False,
    )  # fmt: skip
    assert sample(logits, mixed).tolist() == [1, 2]


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-38, 1e-44, 1e-60])
def test_a_tiny_temperature_is_greedy_in_the_limit(tiny: MakeTiny, temperature: float) -> None:
    prompts = random_prompts(9, [4, 9])
    cold, greedy = (
        drain(tiny().engine(2), [
            r for i, p in enumerate(prompts)
            for r in PromptRow(str(i), None, tuple(p), SamplingParams(temperature=t, max_tokens=6)).requests()
        ])
        for t in (temperature, 0.0)
    )  # fmt: skip
    assert {k: c.token_ids for k, c in cold.items()} == {k: c.token_ids for k, c in greedy.items()}
