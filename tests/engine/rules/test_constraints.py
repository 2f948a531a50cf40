"""Masks, biases and penalties of mixed batches against transformers' processors, and how a row ends that nothing may follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.model.tokenizer import Tokenizer
from pipeline.engine.rules.constraints import Constraints, End
from pipeline.engine.rules.stopping import StopWatch
from pipeline.engine.rules.structured import Grammars
from pipeline.engine.sequence import Sequence
from pipeline.types import Completion, ErrorCode, FinishReason
from tests.engine.small.oracle_rules import bad_word_ids, constrained
from tests.engine.small.tiny_models import END, Tiny, bits, byte_tokenizer, drain, piece, random_prompts, request
from tests.example_counts import examples

MakeTiny = Callable[..., Tiny]
VOCAB = 320
"""More than the tokenizer has: the rest is never text."""
TOKENIZER = Tokenizer(byte_tokenizer(), VOCAB)
GRAMMARS = Grammars(TOKENIZER, VOCAB, frozenset({END}), 1)
STOP, LENGTH, ERROR = FinishReason.STOP, FinishReason.LENGTH, FinishReason.ERROR


def spelled(text: str) -> list[int]:
    return [piece(bytes([b])) for b in text.encode()]


def new(slots: int = 8) -> Constraints:
    return Constraints(slots, VOCAB, torch.device("cpu"), TOKENIZER, GRAMMARS)


def admitted(
    constraints: Constraints, slot: int, generated: list[int], prompt: tuple[int, ...] = (5, 6), **rules: Any
) -> Sequence:
    """A sequence in a slot, as far as it has got."""
    one = request("a", prompt, **{"max_tokens": 20, **rules})
    sequence = Sequence(one, 20, slot=slot)
    watch = StopWatch(one, 20, frozenset({END}), TOKENIZER, GRAMMARS.start(one.sampling))
    constraints.admit(sequence, watch)
    for token in generated:
        constraints.record(torch.tensor([slot]), torch.tensor([token]))
        sequence.generated.append(token)
        watch.check(sequence.generated)
    return sequence


def apply(
    constraints: Constraints, logits: torch.Tensor, sequences: list[Sequence]
) -> tuple[torch.Tensor, dict[int, End]]:
    """The constrained logits, and how rows end of which no token is left."""
    changed, emptied = constraints.apply(logits, sequences)
    return changed, emptied.ends()


def applied(generated: list[int], **rules: Any) -> tuple[list[int], dict[int, End]]:
    """Which tokens may come next, and how it ends if none may."""
    constraints = new()
    logits, ends = apply(constraints, torch.zeros(1, VOCAB), [admitted(constraints, 0, generated, **rules)])
    return logits[0].isfinite().nonzero()[:, 0].tolist(), ends


TOKENS = st.integers(1, 282)
RULES: list[dict[str, Any]] = [
    {}, {"choice": ["abc", "ab", "a", "b the cat", "STOP 🚂"]}, {"regex": "[ab]{2,5}c?"}, {"regex": "(ab|b)*"},
]  # fmt: skip


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[int], dict[str, Any]]:
    """What was generated and the rules that hold."""
    grammar = draw(st.sampled_from(RULES))
    pieces = ["", "a", "ab", "b", "abab", "b "] if grammar else ["", "a", "ab", "the", "the c", "STOP st"]
    generated = spelled(draw(st.sampled_from(pieces)))
    if not grammar:
        generated += draw(st.lists(TOKENS, max_size=3))
    rules: dict[str, Any] = {
        "bad_words": draw(st.lists(st.sampled_from(["a", "ab", "bab", "the cat", "STOP", "b", "the", " stop"]), max_size=3)),
        "logit_bias": draw(st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100, width=32), max_size=4)),
        "repetition_penalty": draw(st.sampled_from([1.0, 1.0, 1.5, 0.5])),
        "frequency_penalty": draw(st.sampled_from([0.0, 0.0, 0.75])),
        "presence_penalty": draw(st.sampled_from([0.0, 0.0, -1.25])),
        "min_tokens": draw(st.integers(0, 6)), "stop_token_ids": draw(st.sampled_from([[], [piece(b"c")], [7, 8]])),
        "ignore_eos": draw(st.booleans()), **grammar,
    }  # fmt: skip
    return generated, rules


@settings(max_examples=examples(150), deadline=None)
@given(batch=st.lists(cases(), min_size=1, max_size=8), seed=st.integers(0, 2**32 - 1))
def test_a_mixed_batch_is_as_transformers_has_it(batch: list[tuple[list[int], dict[str, Any]]], seed: int) -> None:
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 3, (len(batch), VOCAB)).astype(np.float32))
    before = logits.clone()
    constraints = new()
    sequences = [admitted(constraints, i, generated, **rules) for i, (generated, rules) in enumerate(batch)]
    ours, ends = apply(constraints, logits, sequences)
    assert torch.equal(logits, before)  # what statistics are computed from
    for row, ((generated, _), sequence) in enumerate(zip(batch, sequences, strict=True)):
        sampling = sequence.request.sampling
        theirs = torch.from_numpy(constrained(logits[row].double().numpy(), (5, 6), generated, sampling))
        assert (row in ends) == bool((theirs == -torch.inf).all())
        if row not in ends:
            assert torch.equal(ours[row] == -torch.inf, theirs == -torch.inf)
            torch.testing.assert_close(ours[row].double(), theirs, rtol=1e-5, atol=1e-4)
        alone = new()
        again, _ = apply(
            alone, logits[row : row + 1].expand(2, -1), [admitted(alone, 3, generated, **batch[row][1])] * 2
        )
        assert torch.equal(ours[row], again[0]) and torch.equal(again[0], again[1])


@settings(max_examples=examples(50), deadline=None)
@given(batch=st.lists(cases(), min_size=1, max_size=4), free=st.integers(1, 3))
def test_rows_without_rules_keep_every_bit(batch: list[tuple[list[int], dict[str, Any]]], free: int) -> None:
    constraints = new()
    logits = torch.randn(len(batch) + free, VOCAB)
    sequences = [admitted(constraints, i, generated, **rules) for i, (generated, rules) in enumerate(batch)]
    sequences += [admitted(constraints, 7, [9])] * free
    ours, ends = apply(constraints, logits, sequences)
    assert torch.equal(ours[len(batch) :], logits[len(batch) :])
    assert not ends.keys() & {*range(len(batch), len(batch) + free)}
    only = logits[:free]
    assert apply(constraints, only, [sequences[-1]] * free) == (only, {})


def test_penalties_belong_to_a_sequence_not_to_its_slot() -> None:
    constraints, logits = new(), torch.ones(1, VOCAB)
    a = admitted(constraints, 1, [9, 9], repetition_penalty=2.0, frequency_penalty=0.25)
    changed = apply(constraints, logits, [a])[0][0]
    assert {i: v for i, v in enumerate(changed.tolist()) if v != 1} == {5: 0.5, 6: 0.5, 9: 0.0}
    b = admitted(constraints, 1, [], (7,), repetition_penalty=2.0)
    assert {i: v for i, v in enumerate(apply(constraints, logits, [b])[0][0].tolist()) if v != 1} == {7: 0.5}
    c = admitted(constraints, 1, [], (7,))
    assert apply(constraints, logits, [c]) == (logits, {})


def test_forbidden_ends_come_back() -> None:
    logits = torch.zeros(1, VOCAB)
    rules: dict[str, Any] = {"min_tokens": 1, "stop_token_ids": [9, 4, VOCAB + 7]}
    constraints = new()
    first = admitted(constraints, 0, [], **rules)
    assert apply(constraints, logits, [first])[0][0].isinf().nonzero()[:, 0].tolist() == [END, 4, 9]
    assert apply(constraints, logits, [admitted(constraints, 0, [6], **rules)]) == (logits, {})


def test_end_tokens_may_come_only_where_the_text_may_end() -> None:
    a, b, c = spelled("abc")
    rules = {"regex": "ab*", "stop_token_ids": [7, c]}
    assert applied([], **rules)[0] == [a, piece(b"ab")]
    assert applied([a], **rules)[0] == sorted([END, 7, b, c])
    assert applied([a], **rules, ignore_eos=True)[0] == sorted([7, b, c])
    assert applied([a], **rules, min_tokens=2)[0] == [b]
    assert applied([a, b], **rules, min_tokens=2)[0] == sorted([END, 7, b, c])


def test_a_stop_token_that_is_text_may_come_where_the_text_goes_on_with_it() -> None:
    a, b = spelled("ab")
    assert applied([a], regex="aab", stop_token_ids=[a, b])[0] == [a]


@pytest.mark.parametrize(
    ("generated", "rules", "end"),
    [
        ("", {"choice": ["b"], "bad_words": ["b"]}, LENGTH),
        ("c", {"choice": ["cde"], "bad_words": ["cd"]}, LENGTH),
        ("c", {"regex": "cd?", "bad_words": ["cd"], "ignore_eos": True}, STOP),  # it matches, and has nowhere to go
        ("c", {"regex": "cd?", "bad_words": ["cd"], "min_tokens": 2}, STOP),
        ("", {"regex": "()", "ignore_eos": True}, STOP),
        ("", {"regex": "()", "min_tokens": 1}, STOP),
        ("", {"stop_token_ids": [*range(VOCAB)], "min_tokens": 1}, STOP),
    ],
)  # fmt: skip
def test_where_nothing_may_come_it_ends(generated: str, rules: dict[str, Any], end: FinishReason) -> None:
    assert applied(spelled(generated), **rules) == (
        [*range(VOCAB)],
        {0: (end, None)},
    )  # and the sampler has a distribution


def test_what_nothing_matches_is_an_error() -> None:
    """A whole job of it is refused before it starts; `check_grammar` sees to that."""
    ((reason, error),) = applied([], regex="[a&&b]")[1].values()
    assert reason is ERROR and error is not None
    assert (error.code, error.message) == (ErrorCode.BAD_SAMPLING, "regex: no text that the tokens can spell matches")


def test_a_bias_is_no_mask() -> None:
    constraints = new()
    every = {t: -100.0 for t in range(VOCAB)}
    logits, ends = apply(constraints, torch.zeros(1, VOCAB), [admitted(constraints, 0, [], logit_bias=every)])
    assert (logits == -100).all() and not ends


def test_biases_beyond_the_vocabulary_are_left_out() -> None:
    """A job's are refused before it starts; the engine itself is not thrown by them."""
    constraints = new()
    sequence = admitted(constraints, 0, [], logit_bias={VOCAB: 5, 3: 2})
    assert apply(constraints, torch.zeros(1, VOCAB), [sequence])[0].nonzero().tolist() == [[0, 3]]


def finished(completion: Completion) -> tuple[Any, ...]:
    return completion.finish_reason, completion.stop_reason, completion.text, len(completion.token_ids)


@pytest.mark.parametrize("kind", ["engine", "static"])
def test_engines_end_rows_that_nothing_may_follow(tiny: MakeTiny, kind: str) -> None:
    """With their neighbours beside them; prompts and slots are done with."""
    engine = getattr(tiny(), kind)(3, prompt_logprobs=True)
    rules: dict[str, dict[str, Any]] = {
        "never": {"choice": ["b"], "bad_words": ["b"]}, "half": {"choice": ["bcd"], "bad_words": ["d"]},
        "whole": {"regex": "cd?", "bad_words": ["d"], "ignore_eos": True}, "free": {"max_tokens": 9, "ignore_eos": True},
    }  # fmt: skip
    done = drain(engine, [request(f"{name}-{i}", [5, 6], **rule) for name, rule in rules.items() for i in range(3)])
    for i in range(3):
        assert finished(done[f"never-{i}", 0]) == (LENGTH, None, "", 0)
        assert finished(done[f"half-{i}", 0]) == (LENGTH, None, "bc", 2)
        assert finished(done[f"whole-{i}", 0]) == (STOP, None, "c", 1)
        assert finished(done[f"free-{i}", 0])[::3] == (LENGTH, 9)
    for completion in done.values():
        assert all(len(v) == len(completion.token_ids) for v in completion.statistics.values())
        assert len(completion.prompt_token_logprobs) == 2
    assert engine.load() == (0, 0)
    assert finished(drain(engine, [request("after", [5, 6], choice=["bc"])])["after", 0]) == (STOP, None, "bc", 2)


@pytest.mark.parametrize("kind", ["engine", "static"])
def test_a_grammar_that_cannot_be_followed_is_an_error_of_its_row(tiny: MakeTiny, kind: str) -> None:
    engine = getattr(tiny(), kind)(4)
    hard = r"(a|b|.*c)?" * 3000
    requests = [request(f"hard-{i}", [5, 6], regex=hard, temperature=1.0) for i in range(3)]
    requests += [request(f"good-{i}", [5, 6], choice=["ab"]) for i in range(3)]
    done = drain(engine, requests)
    for i in range(3):
        completion = done[f"hard-{i}", 0]
        assert completion.finish_reason is ERROR and completion.error is not None and completion.text is None
        assert completion.error.code is ErrorCode.BAD_SAMPLING
        assert completion.error.message.startswith("regex: ") and "\n" not in completion.error.message
        assert finished(done[f"good-{i}", 0])[:3] == (STOP, None, "ab")


SAMPLING: list[dict[str, Any]] = [
    {"regex": "[a-e]{3,9}( [xyz]+)?"}, {"choice": ["yes", "no", "maybe 京", "yes and no"]},
    {"json_schema": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}, "max_tokens": 30},
    {"bad_words": ["a", "b", "the cat", "STOP"], "logit_bias": {9: 3.0, "10": -100}},
    {"bad_words": ["\n"], "repetition_penalty": 1.3, "logit_bias": {5: 5.0}, "min_tokens": 4}, {},
    {"regex": "(.|\n)*", "min_p": 0.01, "top_p": 0.9, "top_k": 200}, {"temperature": 0.0, "choice": ["ab", "cd"]},
]  # fmt: skip
POOL = [
    request(f"row-{i}", p, i % 3, **{"temperature": 1.5, "max_tokens": 20, **s})
    for i, (p, s) in enumerate(zip(random_prompts(5, [1, 9, 33, 40, 3, 64, 20, 70]), SAMPLING, strict=True))
]  # fmt: skip


def test_the_same_bits_in_any_company(tiny: MakeTiny) -> None:
    model = tiny()
    alone = {name: bits(c) for one in POOL for name, c in drain(model.engine(1, top_logprobs=2), [one]).items()}

    @settings(max_examples=examples(15), deadline=None)
    @given(order=st.permutations(POOL), slots=st.sampled_from([1, 2, 5, 16]), threads=st.sampled_from([1, 3]))
    def same(order: list[Any], slots: int, threads: int) -> None:
        torch.set_num_threads(threads)
        together = drain(model.engine(slots, top_logprobs=2), order)
        assert {name: bits(c) for name, c in together.items()} == alone

    same()


@settings(max_examples=examples(25), deadline=None)
@given(
    words=st.lists(st.sampled_from(["a", "e", "ab", "the cat", "STOP", "\n", "🚂", "é", " "]), min_size=1, max_size=5)
)
def test_no_bad_word_is_generated(tiny: MakeTiny, words: list[str]) -> None:
    """A model that likes nothing better than their tokens."""
    sequences = {tuple(ids) for ids in bad_word_ids(words)}
    liked = {t: 8.0 for s in sequences for t in s}
    requests = [
        request(f"{i}", [7], i, temperature=1.0, max_tokens=40, ignore_eos=True, bad_words=words, logit_bias=liked)
        for i in range(6)
    ]  # fmt: skip
    for completion in drain(tiny().engine(6), requests).values():
        ids = completion.token_ids
        for s in sequences:
            assert not any(ids[i : i + len(s)] == s for i in range(len(ids)))
