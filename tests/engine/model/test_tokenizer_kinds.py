"""Texts, stop strings and structured output with tokenizers that drop, join or add spaces when they decode.

Held against decoding the whole, prompt and all, at every step, and against Python's `re`, the choices and `json`.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.engine.model.tokenizer import REPLACEMENT, Tokenizer
from pipeline.engine.rules import bits
from pipeline.engine.rules.stopping import StopWatch
from pipeline.engine.rules.structured import Grammars
from pipeline.errors import ModelRefused
from pipeline.types import FinishReason, SamplingParams
from tests.engine.small.tiny_models import request
from tests.engine.small.tokenizer_kinds import FOLLOWED, OTHERS, made
from tests.example_counts import examples

End = tuple[int, FinishReason, str | None, str]
KINDS = [*FOLLOWED, *OTHERS]
STOPS = ["Hello", " Hello", " ", "yes", " yes", "no", "o w", "lo", ".", ",", "a b", "b ", "é"]


def tokenizer(kind: str) -> Tokenizer:
    return Tokenizer(made(kind), len(made(kind)))


def visible(kind: str) -> list[int]:
    """Ids that leave text; bytes are left to other tests, as what is within a character depends on its end."""
    inner = made(kind)
    return [
        i for name, i in sorted(inner.get_vocab().items(), key=lambda item: item[1])
        if i not in inner.all_special_ids and not name.startswith("<0x") and REPLACEMENT not in inner.decode([i])
    ]  # fmt: skip


def followed(kind: str, prompt: Sequence[int], ids: Sequence[int], stop: Sequence[str]) -> End:
    """Feed ids one by one until the watch ends it."""
    asked = request("a", prompt, max_tokens=len(ids), stop=list(stop))
    watch = StopWatch(asked, len(ids), frozenset(), tokenizer(kind))
    for count in range(1, len(ids) + 1):
        if (ended := watch.check(ids[:count])) is not None:
            return count, *ended, watch.text(ids[:count], ended[0])
    raise AssertionError("the number of tokens ends it at the latest")


def reference(kind: str, prompt: Sequence[int], ids: Sequence[int], stop: Sequence[str]) -> End:
    """The same, by decoding prompt and completion as a whole at each step."""

    def after(count: int) -> str:
        before, whole = (made(kind).decode([*prompt, *ids[:n]], skip_special_tokens=True) for n in (0, count))
        assume(whole.startswith(before))
        return whole[len(before) :]

    for count in range(1, len(ids) + 1):
        text = after(count)
        assume(text.startswith(after(count - 1)))
        places = [(at, s) for s in stop if (at := text.find(s)) >= 0]
        if places:
            place, found = min(places)
            return count, FinishReason.STOP, found, text[:place]
    return len(ids), FinishReason.LENGTH, None, after(len(ids))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=examples(60), deadline=None)
@given(data=st.data())
def test_texts_and_stop_strings_are_those_of_the_whole(kind: str, data: st.DataObject) -> None:
    tokens = st.sampled_from(visible(kind))
    prompt = data.draw(st.lists(tokens, min_size=1, max_size=14))
    ids = data.draw(st.lists(tokens, min_size=1, max_size=12))
    stop = data.draw(st.lists(st.sampled_from(STOPS), max_size=3, unique=True))
    assert followed(kind, prompt, ids, stop) == reference(kind, prompt, ids, stop)


@pytest.mark.parametrize("kind", [kind for kind in FOLLOWED if kind != "bytes-behind-a-space"])
def test_the_first_token_may_stop_a_text_and_has_its_space(kind: str) -> None:
    inner = made(kind)
    hello, prompt = inner.convert_tokens_to_ids("\u2581Hello"), inner.convert_tokens_to_ids(["\u2581yes"])
    for stop, text in ((" Hello", ""), (" ", ""), ("Hello", " "), ("ell", " H")):
        assert followed(kind, prompt, [hello] * 3, [stop]) == (1, FinishReason.STOP, stop, text)


JSON = {
    "type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}, "b": {"enum": [" yes", "é"]}},
    "required": ["a", "b"], "additionalProperties": False,
}  # fmt: skip
RULES: list[dict[str, Any]] = [
    {"regex": " (yes|no)"}, {"regex": "(yes|no)"}, {"regex": "  ?yes"}, {"regex": "yes no"}, {"regex": r"[a-c ]{1,6}"},
    {"regex": r" ?Hello,? world\."}, {"regex": "é+"}, {"choice": [" yes", "no"]}, {"choice": ["Hello world", " Hello"]},
    {"choice": [" ", "  "]}, {"json_schema": json.dumps(JSON)},
]  # fmt: skip


def matches(rule: dict[str, Any], text: str) -> bool:
    if "json_schema" in rule:
        found = json.loads(text)
        return set(found) == {"a", "b"} and found["a"] in range(10) and found["b"] in (" yes", "é")
    return text in rule["choice"] if "choice" in rule else re.fullmatch(rule["regex"], text) is not None


def prompts(inner: Any) -> list[list[int]]:
    """Ends of prompts: none, only special tokens, a word, a space, a line's end, a special token behind a word."""
    start = [inner.bos_token_id]
    texts = [inner.encode(text, add_special_tokens=False) for text in ("Hello", "Hello ", "Hello\n")]
    return [[], start, *texts, [*texts[0], *start]]


@pytest.mark.parametrize("kind", FOLLOWED)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule)[:40])
def test_a_text_that_follows_a_grammar_is_what_the_grammar_took(kind: str, rule: dict[str, Any]) -> None:
    """Walks at random through what the masks permit, whatever the prompt ends with."""
    inner, found = made(kind), tokenizer(kind)
    ends = frozenset({inner.eos_token_id})
    grammars = Grammars(found, len(inner), ends, 1)
    stopped = 0
    for prompt, seed in itertools.product(prompts(inner), range(6)):
        draw, ids = random.Random(seed), list[int]()
        matcher = grammars.start(SamplingParams(**rule))
        assert matcher is not None
        watch = StopWatch(request("a", prompt, max_tokens=60, **rule), 60, ends, found, matcher)
        ended = None
        while ended is None:
            mask = bits.permitted(grammars.masks([matcher]), len(inner), torch.device("cpu"))[0]
            permitted = mask.nonzero()[:, 0].tolist() + [*ends] * matcher.accepting
            assert permitted, (prompt, ids)
            ids.append(draw.choice(permitted))
            ended = watch.check(ids)
        if ended[0] is FinishReason.STOP:
            assert matches(rule, watch.text(ids, ended[0])), (prompt, inner.convert_ids_to_tokens(ids))
            stopped += 1
    assert stopped > (0 if "json_schema" in rule else 20)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_tokenizer_whose_pieces_have_no_bytes_of_their_own_is_refused(kind: str) -> None:
    grammars = Grammars(tokenizer(kind), len(made(kind)), frozenset(), 1)
    with pytest.raises(
        ModelRefused, match="this tokenizer cannot be used for structured output, which needs "
    ) as refused:
        grammars.start(SamplingParams(regex="yes"))
    assert "\n" not in str(refused.value)
