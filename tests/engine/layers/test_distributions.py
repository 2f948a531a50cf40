"""Every sampling option, alone and all in one batch, against the exact distribution by transformers' processors in float64."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from pipeline.types import Completion, Request, SamplingParams
from tests.engine.small.oracle_rules import Array, distribution
from tests.engine.small.tiny_models import END, Tiny, drain, piece, random_prompts, request

MakeTiny = Callable[..., Tiny]
COUNT, MIXED = 2000, 100
(PROMPT,) = random_prompts(8, [5])
LIKELY = [PROMPT[0], PROMPT[3]]
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {}, "temperature": {"temperature": 0.3}, "hot": {"temperature": 1.3},
    "top_k": {"top_k": 5}, "top_p": {"top_p": 0.7}, "min_p": {"min_p": 0.1},
    "min_p, top_k, top_p": {"temperature": 1.5, "min_p": 0.3, "top_k": 8, "top_p": 0.75},
    "min_p, top_p": {"min_p": 0.05, "top_p": 0.6},
    "repetition_penalty": {"repetition_penalty": 1.6, "logit_bias": {LIKELY[0]: 6.0}},
    "presence_penalty": {"presence_penalty": 1.5},
    "frequency_penalty": {"frequency_penalty": -1.5},
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": -0.5, "frequency_penalty": 1.0, "temperature": 0.7},
    "logit_bias": {"logit_bias": {LIKELY[0]: 4.0, str(LIKELY[1]): 3.0, 9: -100}},
    "bias and penalty": {"logit_bias": {LIKELY[0]: 5.0, 30: 4.0}, "repetition_penalty": 1.5, "top_p": 0.9},
    "bad_words": {"bad_words": ["d", "京b", "STOP"], "logit_bias": {piece("京".encode()): 5.0, 99: 4.0, 101: 3.0}},
    "min_tokens": {"min_tokens": 1, "stop_token_ids": [20, 21], "logit_bias": {END: 6.0, 20: 5.0, 21: 4.0}},
    "stop_token_ids": {"stop_token_ids": [20, 21], "logit_bias": {20: 3.0, 21: 2.0}},
    "ignore_eos": {"ignore_eos": True, "logit_bias": {END: 6.0}},
    "regex": {"regex": "[a-h]([a-z0-9]|STOP)*", "temperature": 1.5},
    "choice": {"choice": ["abc", "ab", "b the cat", " cat", "STOP", "京"], "top_k": 3},
    "everything": {
        "regex": "[a-p][a-z ]*", "bad_words": ["b", "the"], "logit_bias": {100: 3.5, 101: 2.5, END: 3.5}, "min_tokens": 2,
        "repetition_penalty": 1.5, "frequency_penalty": 0.8, "presence_penalty": 0.6, "temperature": 2.5, "min_p": 0.2,
        "top_k": 8, "top_p": 0.8,
    },
}  # fmt: skip
DEFAULTS = {"temperature": 0.8, "max_tokens": 2}


def requests(option: str, count: int) -> list[Request]:
    return [request(option, PROMPT, i, **{**DEFAULTS, **OPTIONS[option]}) for i in range(count)]


@pytest.fixture(scope="module")
def mixed(tiny: MakeTiny) -> dict[tuple[str, int], Completion]:
    """Some samples of each option, all in the same steps."""
    several = [[*sample] for sample in zip(*(requests(option, MIXED) for option in OPTIONS), strict=True)]
    return drain(tiny().engine(64, max_len=32, columns=[]), [r for sample in several for r in sample])


def assert_drawn_from(p: Array, tokens: list[int]) -> None:
    """Chi-square, with rare tokens taken together; impossible ones not once."""
    counts: Array = np.bincount(tokens, minlength=len(p))
    assert counts[p == 0].sum() == 0
    order = np.argsort(-p)
    expected, seen = p[order] * len(tokens), counts[order]
    common = max(1, int(np.searchsorted(-expected, -8)) - 1)  # one less, so that the rest is not too few either
    expected, seen = (np.append(v[:common], v[common:].sum()) for v in (expected, seen))
    if (p > 0).sum() > 1:
        assert chisquare(seen, expected).pvalue > 1e-4


@pytest.mark.parametrize("option", OPTIONS)
def test_tokens_are_drawn_from_the_exact_distribution(
    tiny: MakeTiny, mixed: dict[tuple[str, int], Completion], option: str
) -> None:
    """The first token, and after each of the most frequent first tokens the second, which depends on the first one."""
    model = tiny()
    sampling = SamplingParams(**{**DEFAULTS, **OPTIONS[option]})
    done = drain(model.engine(256, max_len=32, columns=[]), requests(option, COUNT))
    ids = [done[option, i].token_ids for i in range(COUNT)]
    assert [mixed[option, i].token_ids for i in range(MIXED)] == ids[:MIXED]
    exact = distribution(model.exact_logits(PROMPT)[-1], PROMPT, [], sampling)
    assert_drawn_from(exact, [t[0] for t in ids])
    ends = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else (END,))}
    followed = [first for first, n in Counter(t[0] for t in ids if len(t) == 2).most_common(3) if n >= 100]
    assert followed or option == "choice"
    for first in followed:
        assert first not in ends
        exact = distribution(model.exact_logits([*PROMPT, first])[-1], PROMPT, [first], sampling)
        assert_drawn_from(exact, [t[1] for t in ids if t[0] == first and len(t) == 2])


@pytest.mark.parametrize("option", OPTIONS)
def test_every_rule_of_an_option_makes_a_difference(tiny: MakeTiny, option: str) -> None:
    """To the first token or to the second after some likely first one; or the test above would show nothing."""
    model, rules = tiny(), {**DEFAULTS, **OPTIONS[option]}

    def exact(rules: dict[str, Any], generated: list[int]) -> Array:
        logits = model.exact_logits([*PROMPT, *generated])[-1]
        return distribution(logits, PROMPT, generated, SamplingParams(**rules))

    first = exact(rules, [])
    starts = [[], *([int(t)] for t in np.argsort(-first)[:4] if t != END and first[t] > 0)]
    for name in OPTIONS[option].keys() - {"stop_token_ids", "ignore_eos"}:  # these two end a text, and no more
        without = {key: value for key, value in rules.items() if key != name}
        difference = max(np.abs(exact(rules, g) - exact(without, g)).sum() for g in starts)
        assert difference > 0.02, name
