"""When completions end and what text they leave, against decoding the whole at every step and searching it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer, StopStringCriteria

from pipeline.engine.model.tokenizer import Tokenizer
from pipeline.engine.rules.stopping import StopWatch
from pipeline.types import FinishReason
from tests.engine.small.llama_like import llama_tokenizer
from tests.engine.small.tiny_models import DEMO, END, PARTIAL, WORDS, Tiny, byte_tokenizer, drain, piece, request
from tests.example_counts import examples

MakeTiny = Callable[..., Tiny]
TOKENIZER = Tokenizer(byte_tokenizer(), 320)
DEMO_TOKENIZER = Tokenizer(AutoTokenizer.from_pretrained(DEMO), 1024)
End = tuple[int, FinishReason, str | None, str]
"""(tokens, reason, what stopped it, text)."""


def followed(ids: Sequence[int], tokenizer: Tokenizer = TOKENIZER, max_new: int | None = None, **rules: Any) -> End:
    """Feed ids one by one until the watch ends it."""
    limit = max_new or len(ids)
    watch = StopWatch(request("a", [1], **{"max_tokens": limit, **rules}), limit, frozenset({END}), tokenizer)
    for count in range(1, len(ids) + 1):
        ended = watch.check(ids[:count])
        if ended is not None:
            return count, *ended, watch.text(ids[:count], ended[0])
    raise AssertionError("max_new ends it at the latest")


def reference(
    ids: Sequence[int], tokenizer: Tokenizer, stop: Sequence[str] = (), stop_token_ids: Sequence[int] = (),
    min_tokens: int = 0, ignore_eos: bool = False,
) -> End:  # fmt: skip
    """The same, by decoding everything at each step. A stop string counts when its last character appears."""
    ends = {*stop_token_ids} | (set() if ignore_eos else {END})
    seen = 0
    for count in range(1, len(ids) + 1):
        if ids[count - 1] in ends:
            return count, FinishReason.STOP, tokenizer.token(ids[count - 1]), tokenizer.decode(ids[: count - 1])
        text = tokenizer.decode(ids[:count])
        whole = text.rstrip("\ufffd")  # the rest may be a character that is not complete yet
        places = [(at, s) for s in stop if (at := whole.find(s, max(0, seen - len(s) + 1))) >= 0]
        seen = max(seen, len(whole))
        if places and count >= min_tokens:
            place, found = min(places)
            return count, FinishReason.STOP, found, text[:place]
        if count == len(ids):
            return count, FinishReason.LENGTH, None, text
    raise AssertionError("no ids")


IDS = [piece(bytes([b])) for b in b"abST \n"] + [piece(w.encode()) for w in WORDS] + [piece(p) for p in PARTIAL]
IDS += [piece(b) for b in (b"\xf0", b"\x9f", b"\x9a", b"\x82", b"\xe4", b"\xba", b"\xac", b"\xff")]
STOPS = [
    "STOP",
    "ab",
    "bab",
    " stop",
    "b",
    " ",
    "\n",
    "\n\n",
    "🚂",
    "é",
    "京",
    "a京",
    " 🚂ab",
    "op",
    "the cat",
    "abababab",
]


@settings(max_examples=examples(600), deadline=None)
@given(
    ids=st.lists(st.sampled_from(IDS), min_size=1, max_size=24),
    stop=st.lists(st.sampled_from(STOPS), max_size=4, unique=True), min_tokens=st.integers(0, 8),
    stop_token_ids=st.lists(st.sampled_from(IDS[:3]), max_size=1),
)  # fmt: skip
@example(ids=[piece(b"a"), piece(b"b"), piece(b"T")], stop=["a", "abababab"], min_tokens=3, stop_token_ids=[])
@example(ids=[piece(b"a"), piece(b" \xf0\x9f")], stop=[" "], min_tokens=0, stop_token_ids=[])
def test_a_watch_does_what_decoding_the_whole_does(
    ids: list[int], stop: list[str], min_tokens: int, stop_token_ids: list[int]
) -> None:
    rules: dict[str, Any] = {
        "stop": stop, "min_tokens": min(min_tokens, len(ids)), "stop_token_ids": stop_token_ids,
    }  # fmt: skip
    assert followed(ids, **rules) == reference(ids, TOKENIZER, **rules)


@settings(max_examples=examples(200), deadline=None)
@given(
    st.lists(st.integers(1, 1023), min_size=1, max_size=30),
    st.lists(st.sampled_from(["e", " the", "ing", ". ", "a", "or", "\n"]), max_size=3, unique=True),
)
def test_the_demo_tokenizer_too(ids: list[int], stop: list[str]) -> None:
    assert followed(ids, DEMO_TOKENIZER, stop=stop) == reference(ids, DEMO_TOKENIZER, stop)


PLAIN = [piece(bytes([b])) for b in b"abST .,\n"] + [piece(w.encode()) for w in WORDS[:5]]
"""Tokens that end between characters: transformers' own criterion knows no others."""


@settings(max_examples=examples(300), deadline=None)
@given(
    ids=st.lists(st.sampled_from(PLAIN), min_size=1, max_size=20),
    stop=st.lists(st.sampled_from([s for s in STOPS if s.isascii()]), min_size=1, max_size=4, unique=True),
)
def test_a_watch_stops_where_transformers_stops(ids: list[int], stop: list[str]) -> None:
    criterion = StopStringCriteria(byte_tokenizer(), stop)
    theirs = [n for n in range(1, len(ids) + 1) if criterion(torch.tensor([ids[:n]]), torch.empty(0))]
    count, reason, stopped_by, text = followed(ids, stop=stop)
    assert (count, reason) == ((theirs[0], FinishReason.STOP) if theirs else (len(ids), FinishReason.LENGTH))
    if theirs:
        assert stopped_by in stop and TOKENIZER.decode(ids[:count]).startswith(text + str(stopped_by))


@pytest.mark.parametrize("kind", ["engine", "static"])
def test_engines_stop_where_generate_stops(demo: Tiny, kind: str) -> None:
    """Greedy, on the demo model, with stop strings cut out of what it says without them."""
    prompts = demo.tokenizer.encode_batch(["Weather report for Larkfield, Monday:", "Dear", "The", "Recipe:"])
    free = drain(
        getattr(demo, kind)(4, max_len=256), [request(str(i), p, max_tokens=40) for i, p in enumerate(prompts)]
    )
    stopped = 0
    for i, prompt in enumerate(prompts):
        said = free[str(i), 0].text or ""
        for start, length in ((3, 5), (10, 3), (20, 9), (31, 2), (0, 1), (5, 12)):
            stop = [said[start : start + length], "never said"]
            if len(stop[0]) < length:
                continue
            ids, _ = demo.generate(prompt, 40, eos_token_id=0, stop_strings=stop, tokenizer=demo.tokenizer.inner)
            ours = drain(getattr(demo, kind)(1, max_len=256), [request("a", prompt, max_tokens=40, stop=stop)])["a", 0]
            assert list(ours.token_ids) == ids
            assert (ours.finish_reason, ours.stop_reason) == (FinishReason.STOP, stop[0])
            assert ours.text == said[: said.index(stop[0])]
            stopped += 1
    assert stopped > 15


def spell(*pieces: str | bytes) -> list[int]:
    return [piece(p if isinstance(p, bytes) else p.encode()) for p in pieces]


@pytest.mark.parametrize(
    ("ids", "stop", "expected"),
    [
        (spell("S", "T", "O", "P", "a"), ["STOP"], (4, "STOP", "")),
        (spell("a", "STOP", "a"), ["STOP"], (2, "STOP", "a")),
        (spell("STOP"), ["STOP"], (1, "STOP", "")),
        (spell("a", "STOP", "a"), ["TO"], (2, "TO", "aS")),
        (spell("a", b"\xf0", b"\x9f", b"\x9a", b"\x82", "a"), ["🚂"], (5, "🚂", "a")),
        (spell(b" \xf0\x9f", b"\x9a\x82", "a"), [" 🚂a"], (3, " 🚂a", "")),
        (spell(b"\n\xe4", b"\xba\xac", "a"), ["京"], (2, "京", "\n")),
        (spell("a", "b", " ", "a"), ["b ", "ab"], (2, "ab", "")),
        (
            spell("a", " cat", " stop"),
            ["t s", " cat st"],
            (3, " cat st", "a"),
        ),  # both at once: the one that begins first
        (spell(" cat", " stop"), [" stop", " cat stop"], (2, " cat stop", "")),
        (spell(b"\xff", "a", b"\xff", "b"), ["b"], (4, "b", "\ufffda\ufffd")),
        (spell("a", b"\xff", "b"), ["\ufffd"], (3, "\ufffd", "a")),
    ],
)
def test_stop_strings(ids: list[int], stop: list[str], expected: tuple[int, str, str]) -> None:
    count, reason, stopped_by, text = followed(ids, stop=stop)
    assert reason is FinishReason.STOP
    assert (count, stopped_by, text) == expected


def test_a_stop_string_within_min_tokens_does_not_count() -> None:
    ids = spell("a", "b", " ", "a", "b", " ")
    assert followed(ids, stop=["ab"], min_tokens=3) == (5, FinishReason.STOP, "ab", "ab ")
    assert followed(ids[:4], stop=["ab"], min_tokens=3) == (4, FinishReason.LENGTH, None, "ab a")
    assert followed(ids, stop=["ab"], min_tokens=2) == (2, FinishReason.STOP, "ab", "")
    # nor does it when a longer stop string keeps its text in view
    assert followed(ids[:4], stop=["ab", "abababab"], min_tokens=3) == (4, FinishReason.LENGTH, None, "ab a")


def test_an_end_token_leaves_no_text() -> None:
    a, b = spell("a", "b")
    assert followed([a, END, b]) == (2, FinishReason.STOP, "<|end|>", "a")
    assert followed([END, b]) == (1, FinishReason.STOP, "<|end|>", "")
    assert followed([a, END, b], ignore_eos=True) == (3, FinishReason.LENGTH, None, "ab")
    assert followed([a, b, a], stop_token_ids=[b]) == (2, FinishReason.STOP, "b", "a")
    assert followed([a, b, a], stop_token_ids=[b], ignore_eos=True) == (2, FinishReason.STOP, "b", "a")
    assert followed([a, b, a], stop_token_ids=[b], stop=["b"]) == (2, FinishReason.STOP, "b", "a")


def test_the_last_token_may_still_stop() -> None:
    a, b = spell("a", "b")
    assert followed([a, b], stop=["b"]) == (2, FinishReason.STOP, "b", "a")
    assert followed([a, END]) == (2, FinishReason.STOP, "<|end|>", "a")
    assert followed([a, b], max_new=1) == (1, FinishReason.LENGTH, None, "a")


@pytest.mark.parametrize(("rules", "expected"), [({"min_tokens": 2}, [True, True, False]), ({}, [False] * 3)])
def test_end_tokens_are_forbidden_until_min_tokens(rules: dict[str, int], expected: list[bool]) -> None:
    watch = StopWatch(request("a", [1], max_tokens=5, **rules), 5, frozenset({END}), TOKENIZER)
    assert [watch.forbids_end(n) for n in range(3)] == expected
    none = StopWatch(request("a", [1], max_tokens=5, ignore_eos=True, **rules), 5, frozenset({END}), TOKENIZER)
    assert not none.forbids_end(0)  # nothing to forbid


def test_min_tokens_beyond_the_context_give_way() -> None:
    watch = StopWatch(request("a", [1], max_tokens=9, min_tokens=9), 2, frozenset({END}), TOKENIZER)
    assert watch.forbids_end(1) and not watch.forbids_end(2)
    assert watch.check(spell("a", "b")) == (FinishReason.LENGTH, None)


def test_engines_stop_where_the_text_says(tiny: MakeTiny) -> None:
    """The engines' ids and texts with stop strings are those without, cut by the reference."""
    model = tiny()
    stop = ["a", "e", "o", " ", "\n"]
    for make in (model.engine, model.static):
        free, cut = (
            drain(make(), [
                request(f"{i}", [7, i + 1], i, temperature=2.0, max_tokens=60, ignore_eos=True, stop=s, min_tokens=2)
                for i in range(12)
            ])
            for s in ([], stop)
        )  # fmt: skip
        stopped = 0
        for name, completion in cut.items():
            ids = free[name].token_ids
            count, reason, by, text = reference(ids, model.tokenizer, stop, min_tokens=2, ignore_eos=True)
            assert completion.token_ids == ids[:count]
            assert (completion.finish_reason, completion.stop_reason, completion.text) == (reason, by, text)
            assert all(len(v) == count for v in completion.statistics.values())
            stopped += reason is FinishReason.STOP
        assert stopped > 3


def test_a_stop_string_that_came_too_early_does_not_cut_what_ends_for_another_reason(tiny: MakeTiny) -> None:
    """Within min_tokens it does not count; the text then ends as its grammar is complete."""
    rules: dict[str, Any] = {"choice": ["abcd"], "stop": ["b"], "min_tokens": 9, "max_tokens": 9}
    for make in (tiny().engine, tiny().static):
        done = drain(make(), [request("a", [7], **rules)])["a", 0]
        assert (done.text, done.finish_reason, done.stop_reason) == ("abcd", FinishReason.STOP, None)


LLAMA = Tokenizer(llama_tokenizer(), len(llama_tokenizer()))
LLAMA_IDS = range(3, len(llama_tokenizer()) - 1)


def after(prompt: Sequence[int], ids: Sequence[int], tokenizer: Tokenizer, **rules: Any) -> End:
    """As `followed`, behind a prompt."""
    watch = StopWatch(
        request("a", prompt, **{"max_tokens": len(ids), **rules}), len(ids), frozenset(), tokenizer
    )  # fmt: skip
    for count in range(1, len(ids) + 1):
        ended = watch.check(ids[:count])
        if ended is not None:
            return count, *ended, watch.text(ids[:count], ended[0])
    raise AssertionError("max_new ends it at the latest")


def streamed(prompt: Sequence[int], ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """What `tokenizers` gives token by token, when it was fed the prompt."""
    stream = DecodeStream(ids=list(prompt), skip_special_tokens=True)
    return "".join(stream.step(tokenizer.inner.backend_tokenizer, i) or "" for i in ids)


@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    st.lists(st.sampled_from(LLAMA_IDS), min_size=1, max_size=40), st.lists(st.sampled_from(LLAMA_IDS), min_size=1, max_size=20)
)  # fmt: skip
def test_a_completion_is_decoded_behind_its_prompt(prompt: list[int], ids: list[int]) -> None:
    """Against what `decode(prompt + completion)` has behind `decode(prompt)`, where characters are whole."""
    before, whole = LLAMA.decode(prompt), LLAMA.decode([*prompt, *ids])
    assume("\ufffd" not in before + whole and before)
    assert after(prompt, ids, LLAMA)[3] == whole[len(before) :]


def test_the_first_space_of_a_completion_stays() -> None:
    ids = llama_tokenizer().convert_tokens_to_ids(["\u2581Hello", "\u2581world"])
    for prompt in (
        ["\u2581yes"],
        ["<s>", "\u2581no"],
        ["<s>", "\u2581no", "[/INST]"],
        ["\u2581no"] * 30 + ["[/INST]"] * 12,
    ):
        spelled = llama_tokenizer().convert_tokens_to_ids(prompt)
        assert after(spelled, ids, LLAMA)[3] == " Hello world"
        if prompt[-1] != "[/INST]":
            assert streamed(spelled, ids, LLAMA) == " Hello world"
    only = llama_tokenizer().convert_tokens_to_ids(["<s>"])
    assert after(only, ids, LLAMA)[3] == streamed(only, ids, LLAMA) == "Hello world", "it begins the text"


def test_stop_strings_see_the_first_token_and_its_space() -> None:
    ids = llama_tokenizer().convert_tokens_to_ids(["\u2581Hello", "\u2581world", "\u2581yes"])
    prompt = llama_tokenizer().convert_tokens_to_ids(["\u2581no"])
    assert after(prompt, ids, LLAMA, stop=[" Hello"]) == (1, FinishReason.STOP, " Hello", "")
    assert after(prompt, ids, LLAMA, stop=[" world"]) == (2, FinishReason.STOP, " world", " Hello")


def test_a_character_that_the_prompt_left_open_belongs_to_the_completion() -> None:
    first, rest = [piece(b"a"), piece(b"\xf0"), piece(b"\x9f")], [piece(b"\x9a"), piece(b"\x82"), piece(b"b")]
    assert after(first, rest, TOKENIZER)[3] == "🚂b"
    assert after(first, rest, TOKENIZER, stop=["b"])[3] == "🚂"


@pytest.fixture(scope="module")
def chat() -> Tokenizer:
    """With a special token, and one that is special in the tokenizer's own file alone."""
    inner = AutoTokenizer.from_pretrained(DEMO)
    inner.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    inner.backend_tokenizer.add_special_tokens(["<|eot|>"])
    return Tokenizer(inner, 1100)


@pytest.mark.parametrize("name", ["<|im_end|>", "<|eot|>"])
def test_a_stop_string_that_is_a_special_token_stops_there(chat: Tokenizer, name: str) -> None:
    end = chat.inner.convert_tokens_to_ids(name)
    ids = [*chat.spell("Hi"), end, *chat.spell(" and more")]
    count = len(chat.spell("Hi")) + 1
    for stop in ([name], [" more", name]):
        assert after(chat.spell("x"), ids, chat, stop=stop) == (count, FinishReason.STOP, name, "Hi")
    # min_tokens keeps it back as any end token, so it is no longer chosen; one that was chosen counts
    watch = StopWatch(request("a", [1], stop=[name], min_tokens=2, max_tokens=9), 9, frozenset(), chat)
    assert watch.forbids_end(1) and end in watch.end_ids and not watch.forbids_end(2)


def test_a_stop_string_with_a_special_token_in_it(chat: Tokenizer) -> None:
    end = chat.inner.convert_tokens_to_ids("<|im_end|>")
    ids = [*chat.spell("Hi"), end, *chat.spell(" you"), end, *chat.spell("\nand more")]
    found = after(chat.spell("x"), ids, chat, stop=["u<|im_end|>\n"])
    assert found[1:] == (FinishReason.STOP, "u<|im_end|>\n", "Hi yo")
