"""Structured output: texts against Python's `re`, the choices and jsonschema, likelihoods against all paths there are."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest
import regex
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import AutoTokenizer

from pipeline.engine.model.tokenizer import Tokenizer
from pipeline.engine.rules import bits
from pipeline.engine.rules.structured import Grammars, Matcher, check_grammar
from pipeline.errors import ConfigurationError, ModelRefused
from pipeline.types import Completion, FinishReason, SamplingParams
from tests.engine.small.oracle_rules import Array, distribution, may_match, permitted, token_bytes
from tests.engine.small.tiny_models import DEMO, END, Tiny, byte_tokenizer, drain, piece, request
from tests.example_counts import examples

MakeTiny = Callable[..., Tiny]
VOCAB = 320
TOKENIZER = Tokenizer(byte_tokenizer(), VOCAB)
GRAMMARS = Grammars(TOKENIZER, VOCAB, frozenset({END}), 1)
STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


ATOMS = ["[0-9]", "[a-c]", "[^a-z]", "[b-d0-9]", ".", r"\.", r"\+", "(?:)", "the", " cat"]


def patterns(letters: str, atoms: list[str]) -> st.SearchStrategy[str]:
    """Regexes that Python and the library read alike."""
    repeats = st.sampled_from(["?", "*", "+", "{2}", "{1,3}", "{0,2}", "*?"])
    return st.recursive(
        st.one_of(st.sampled_from(list(letters)).map(re.escape), st.sampled_from(atoms)),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map("".join),
            st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
            st.tuples(inner, repeats).map(lambda part: f"({part[0]}){part[1]}"),
        ),
        max_leaves=6,
    )


def masks(grammars: Grammars, matchers: list[Matcher]) -> Array:
    """Whether each token may come next, [matchers, V]."""
    return bits.permitted(grammars.masks(matchers), grammars._vocab_size, torch.device("cpu")).numpy()


def run(model: Tiny, kind: str, rules: list[dict[str, Any]]) -> list[Completion]:
    requests = [
        request(f"{i}", [7, 9], i, **{"temperature": 2.0, "max_tokens": 40, **rule}) for i, rule in enumerate(rules)
    ]
    done = drain(getattr(model, kind)(4), requests)
    return [done[f"{i}", i] for i in range(len(rules))]


@settings(max_examples=examples(60), deadline=None)
@given(
    found=st.lists(patterns('ab京é/\n"', ATOMS), min_size=1, max_size=6), ignore_eos=st.booleans(),
    min_tokens=st.integers(0, 6), temperature=st.sampled_from([0.0, 1.0, 3.0]), kind=st.sampled_from(["engine", "static"]),
)  # fmt: skip
def test_a_text_that_stops_matches_its_regex(
    tiny: MakeTiny, found: list[str], ignore_eos: bool, min_tokens: int, temperature: float, kind: str
) -> None:
    rules = {"ignore_eos": ignore_eos, "min_tokens": min_tokens, "temperature": temperature}
    for pattern, completion in zip(found, run(tiny(), kind, [{"regex": p, **rules} for p in found]), strict=True):
        assert completion.error is None and completion.text is not None
        whole = re.fullmatch(pattern, completion.text) is not None
        if completion.finish_reason is STOP:
            assert whole, (pattern, completion.text)
            ended = completion.token_ids[-1:] == (END,)
            assert completion.stop_reason == ("<|end|>" if ended else None)
            assert not (ended and (ignore_eos or len(completion.token_ids) <= min_tokens))
        else:
            assert len(completion.token_ids) == 40
            text = completion.text.rstrip("\ufffd")  # it may be cut within a character
            assert regex.fullmatch(pattern, text, partial=True), (pattern, text)


@settings(max_examples=examples(60), deadline=None)
@given(choices=st.lists(st.text(min_size=1, max_size=7), min_size=1, max_size=6), min_tokens=st.integers(0, 9))
def test_a_text_is_one_of_the_choices(tiny: MakeTiny, choices: list[str], min_tokens: int) -> None:
    rule = {"choice": choices, "max_tokens": 60, "min_tokens": min_tokens}
    for completion in run(tiny(), "engine", [rule, {**rule, "ignore_eos": True}, {**rule, "temperature": 0.0}]):
        assert completion.finish_reason is STOP
        assert completion.text in choices


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


SCHEMAS: list[dict[str, Any]] = [
    closed(
        ["name", "age"], name={"type": "string", "maxLength": 5}, age={"type": "integer", "minimum": 0, "maximum": 99}
    ),
    {"enum": ["a", 1, None, {"b": [True]}]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    {"type": "string", "pattern": "^[a-c]{2,4}$"},
    {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 3}]},
    closed(["when"], when={"type": "string", "format": "date"}, n={"$ref": "#/$defs/n"})
    | {"$defs": {"n": {"type": "number", "minimum": -1, "maximum": 1}}},
    closed(["京", 'x/"y'], **{"京": {"const": "🚂"}, 'x/"y': {"type": "null"}}),
]
BLANK = {piece(b): -100 for b in (b" ", b"\n", b"\t", b"\r", b"\n\n")}


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
@pytest.mark.parametrize("kind", ["engine", "static"])
def test_a_text_that_stops_satisfies_its_schema(tiny: MakeTiny, schema: dict[str, Any], kind: str) -> None:
    """A random model would put blanks without end between the parts, so these are made unlikely."""
    rule = {"json_schema": schema, "logit_bias": BLANK, "max_tokens": 110}
    done = run(tiny(), kind, [{**rule, "json_schema": s} for s in (schema, json.dumps(schema)) for _ in range(6)])
    stopped = [c.text for c in done if c.finish_reason is STOP]
    assert len(stopped) >= 6
    for text in stopped:
        assert text is not None
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())


def test_properties_come_in_the_order_of_the_schema(tiny: MakeTiny) -> None:
    properties = {"b": {"type": "null"}, "a": {"type": "null"}}
    for order in (properties, dict(reversed(properties.items()))):
        schema = {"type": "object", "properties": order, "required": ["a", "b"], "additionalProperties": False}
        (done,) = run(tiny(), "engine", [{"json_schema": schema, "logit_bias": BLANK, "max_tokens": 100}])
        assert done.text is not None and list(json.loads(done.text)) == list(order)


@settings(max_examples=examples(60), deadline=None)
@given(
    pattern=patterns("ab", ["[0-9]", "[a-c]", "[b-d0-9]", r"\.", "the", " cat"]),
    steps=st.lists(st.integers(0, 10**6), max_size=8),
)
def test_a_mask_permits_every_token_with_which_the_text_can_match(pattern: str, steps: list[int]) -> None:
    """By trying each; a mask that permits less would bend the distribution."""
    sampling, endless = SamplingParams(regex=pattern), SamplingParams(regex=pattern, ignore_eos=True)
    matcher = GRAMMARS.start(sampling)
    assert matcher is not None
    generated: list[int] = []
    for step in [*steps, 0]:
        mask = masks(GRAMMARS, [matcher])[0]
        theirs = permitted(endless, generated, VOCAB)
        assert mask.tolist() == theirs.tolist()
        assert matcher.accepting == permitted(sampling, generated, VOCAB)[END]
        tokens = mask.nonzero()[0]
        if not len(tokens):
            break
        generated.append(int(tokens[step % len(tokens)]))
        complete = matcher.advance(generated[-1])
        left = permitted(endless, generated, VOCAB).any()
        assert complete == (matcher.accepting and not left)


def paths(model: Tiny, prompt: list[int], sampling: SamplingParams) -> dict[tuple[bytes, bool], float]:
    """Exact probability of each text, and whether an end token ended it, over all ways to spell it."""
    found: dict[tuple[bytes, bool], float] = {}

    def follow(generated: list[int], probability: float) -> None:
        text = b"".join(token_bytes()[t] for t in generated)
        mask = permitted(sampling, generated, VOCAB)
        if not mask[END + 1 :].any():
            found[text, False] = found.get((text, False), 0) + probability
            return
        p = distribution(model.exact_logits([*prompt, *generated])[-1], prompt, generated, sampling)
        if np.isnan(p).any():  # the other rules leave nothing
            found[text, False] = found.get((text, False), 0) + probability
            return
        for token in p.nonzero()[0].tolist():
            if token == END:
                found[text, True] = found.get((text, True), 0) + probability * p[token]
            else:
                follow([*generated, token], probability * p[token])

    follow([], 1.0)
    return found


@pytest.mark.parametrize(
    "rules",
    [
        {"choice": ["ab", "abab", "b", "STOP", "the cat", " the cat", "京"]},
        {"choice": ["a", "ab", "abb"], "temperature": 3.0},
        {"regex": "(a|ab|b){1,3}", "temperature": 1.7},
        {"choice": ["ab", "cd", "ce"], "logit_bias": {"100": 2.5}},
        {"choice": ["aa", "aab", "b"], "min_tokens": 3},
        {"choice": ["ab", "abc", "b"], "bad_words": ["abc", "b"], "repetition_penalty": 1.5},
    ],
    ids=str,
)  # fmt: skip
def test_texts_are_as_likely_as_the_masked_model_has_them(tiny: MakeTiny, rules: dict[str, Any]) -> None:
    model, prompt, count = tiny(), [7, 9], 4000
    sampling = SamplingParams(**{"temperature": 1.0, "max_tokens": 20, **rules})
    exact = paths(model, prompt, sampling)
    assert sum(exact.values()) == pytest.approx(1) and len(exact) > 1
    requests = [request("a", prompt, i, **{"temperature": 1.0, "max_tokens": 20, **rules}) for i in range(count)]
    done = drain(model.engine(256, max_len=32, columns=[]), requests)
    texts = Counter(
        (b"".join(token_bytes()[t] for t in c.token_ids if t != END), END in c.token_ids) for c in done.values()
    )
    assert texts.keys() <= exact.keys()
    names = sorted(exact, key=lambda name: -exact[name])
    expected: Array = np.array([exact[n] * count for n in names])
    seen: Array = np.array([texts[n] for n in names])
    rare = max(2, int(np.searchsorted(-expected, -8)))
    expected, seen = (np.append(v[: rare - 1], v[rare - 1 :].sum()) for v in (expected, seen))
    assert chisquare(seen, expected).pvalue > 1e-4


def test_statistics_are_those_of_the_model_without_the_mask(tiny: MakeTiny) -> None:
    model = tiny()
    (done,) = run(model, "engine", [{"choice": ["STOP the cat"], "ignore_eos": True}])
    logits = model.exact_logits([7, 9, *done.token_ids])[1:-1]
    exact = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = exact[np.arange(len(logits)), list(done.token_ids)]
    assert done.statistics["token_logprobs"] == pytest.approx(chosen, abs=1e-4)
    assert done.statistics["token_ranks"].tolist() == ((exact > chosen[:, None]).sum(-1) + 1).tolist()
    assert (done.statistics["token_entropies"] > 1).all()


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"regex": "ab*", "max_tokens": 4}, None),
        ({"regex": "(a|b)*", "stop": ["bb"], "ignore_eos": True}, ("bb", lambda t: "bb" not in t)),
        ({"regex": "[ab]{9,}", "stop_token_ids": [piece(b"b"), piece(b"ab")]}, (None, lambda t: set(t) <= {"a"})),
        ({"choice": ["aaa"], "stop": ["aaa"]}, ("aaa", lambda t: t == "")),
        ({"choice": ["aaa"], "stop": ["aaaa", "aa"], "min_tokens": 3}, ("aa", lambda t: t == "a")),
        ({"choice": ["aaa"], "max_tokens": 3}, (None, lambda t: t == "aaa")),
        ({"choice": ["aaaa"], "stop": ["a"], "min_tokens": 9}, (None, lambda t: t == "aaaa")),
    ],
)  # fmt: skip
def test_other_endings(tiny: MakeTiny, rules: dict[str, Any], expected: Any) -> None:
    for done in run(tiny(), "engine", [rules] * 8):
        assert done.text is not None
        if expected is None or done.finish_reason is LENGTH:
            sampling = SamplingParams(regex=rules["regex"])
            assert may_match(sampling, done.text.encode())
            assert done.finish_reason is STOP or len(done.token_ids) == rules.get("max_tokens", 40)
            continue
        by, holds = expected
        assert done.finish_reason is STOP and holds(done.text)
        assert by is None or done.stop_reason == by


def test_a_vocabulary_of_its_own_and_a_larger_one_of_the_model() -> None:
    """The demo's tokenizer; the model's vocabulary is larger than it, and its end token has another id."""
    tokenizer = Tokenizer(AutoTokenizer.from_pretrained(DEMO), 1100)
    grammars = Grammars(tokenizer, 1100, frozenset({0, 5, 1099}), 2)
    matchers = [grammars.start(SamplingParams(regex=r)) for r in (".*", "[0-9]")]
    found = masks(grammars, [m for m in matchers if m is not None])
    assert found.shape == (2, 1100)
    assert not found[:, [0, 5, 1099]].any() and not found[:, 1024:].any()
    assert {tokenizer.decode([int(t)]) for t in found[1].nonzero()[0]} == set("0123456789")


def test_a_copy_does_not_move_with_another() -> None:
    sampling = SamplingParams(regex="abc")
    first, second = GRAMMARS.start(sampling), GRAMMARS.start(sampling)
    assert first is not None and second is not None
    first.advance(piece(b"a"))
    found = masks(GRAMMARS, [first, second])
    assert found[0].nonzero()[0].tolist() == [piece(b"b")]
    assert set(found[1].nonzero()[0].tolist()) == {piece(b"a"), piece(b"ab")}


def test_more_grammars_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine.rules.structured._REMEMBERED", 3)
    for i in [*range(9), 0]:
        matcher = GRAMMARS.start(SamplingParams(choice=(str(i),)))
        assert matcher is not None
        assert masks(GRAMMARS, [matcher])[0].nonzero()[0].tolist() == [piece(str(i).encode())]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"regex": "(a"}, "regex: unclosed group"),
        ({"regex": "(?=a)b"}, "regex: look-around, including look-ahead and look-behind, is not supported"),
        ({"regex": r"\ba"}, "regex: lookarounds not supported yet"),
        ({"regex": r"(a)\1"}, "regex: backreferences are not supported"),
        ({"regex": "[a&&b]"}, "regex: no text that the tokens can spell matches"),
        ({"regex": "(" * 10**5}, "regex: "),
        ({"json_schema": {"type": "text"}}, "json_schema: Invalid type: text"),
        ({"json_schema": {"type": "array", "uniqueItems": True}}, 'json_schema: Unimplemented keys: ["uniqueItems"]'),
        ({"json_schema": {"$ref": "http://127.0.0.1:9/x"}}, "json_schema: Resource 'http://127.0.0.1:9/x' is not present"),
        ({"json_schema": {"$ref": "file:///etc/hostname"}}, "json_schema: Resource 'file:///etc/hostname' is not present"),
        ({"json_schema": '{"items":' * 500 + "{}" + "}" * 500}, "json_schema: failed to parse"),
        ({"json_schema": {"enum": []}}, "json_schema: Unsatisfiable schema"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_told_in_one_line(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        check_grammar(SamplingParams(**rule))
    assert len(str(caught.value)) <= 200 and "\n" not in str(caught.value)


@pytest.mark.parametrize("rule", [{}, {"regex": "a/b"}, {"choice": ['/\n"%json']}, {"json_schema": {}}])
def test_what_can_be_followed_is_let_through(rule: dict[str, Any]) -> None:
    check_grammar(SamplingParams(**rule))


def test_without_the_library_it_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "llguidance"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    check_grammar(SamplingParams())
    grammars = Grammars(TOKENIZER, VOCAB, frozenset({END}), 1)
    assert grammars.start(SamplingParams()) is None
    for call in (check_grammar, grammars.start):
        with pytest.raises(ConfigurationError, match=r"^sampling.choice: needs the llguidance package .*: pip install"):
            call(SamplingParams(choice=("a",)))


def test_a_tokenizer_that_cannot_be_used_is_refused() -> None:
    class Slow:
        bos_token_id = eos_token_id = 0
        all_special_ids = (0,)

        def __len__(self) -> int:
            return 5

    with pytest.raises(ModelRefused, match="this tokenizer cannot be used for structured output"):
        Grammars(Tokenizer(Slow(), 5), 5, frozenset({0}), 1).start(SamplingParams(regex="a"))


def test_every_text_of_a_small_language_is_spelled(tiny: MakeTiny) -> None:
    """With equal logits for its letters, all texts come up."""
    texts = {"".join(t) for n in (1, 2) for t in itertools.product("abc", repeat=n)}
    done = run(tiny(), "engine", [{"regex": "[abc]{1,2}", "temperature": 50.0}] * 300)
    assert {c.text for c in done} == texts


def test_a_model_without_an_end_token_gets_none() -> None:
    """The library wants one; where a text may end it is no part of the mask."""
    grammars = Grammars(TOKENIZER, VOCAB, frozenset(), 1)
    matcher = grammars.start(SamplingParams(regex="b*"))
    assert matcher is not None and matcher.accepting
    assert masks(grammars, [matcher])[0].nonzero()[0].tolist() == [piece(b"b")]


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("a/b", "a/b", "a\\/b"), (r"a\/b", "a/b", "ab"), (r"a\\/b", "a\\/b", "a/b"), ('/ | "x"', '/ ', "x"),
        (r"\\/\n| /x", "\\/\n", "x"), ("a\n", "a\n", "an"), ("a\r", "a\r", "ar"), ("a#b", "a#b", "a"), ("//i", "//i", "//I"),
    ],
)  # fmt: skip
def test_a_regex_is_nothing_but_a_regex(pattern: str, good: str, bad: str) -> None:
    """It does not get out of the place that it has in the library's grammar."""
    for text, matches in ((good, True), (bad, False)):
        matcher = GRAMMARS.start(SamplingParams(regex=pattern))
        assert matcher is not None and matcher.error is None
        for byte in text.encode():
            matcher.advance(piece(bytes([byte])))
        assert matcher.accepting == matches
