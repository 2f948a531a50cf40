"""Bad words against transformers' own processor."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.model.tokenizer import Tokenizer
from pipeline.engine.rules.bad_words import BadWords, spellings
from tests.engine.small.oracle_rules import bad_word_ids, forbidden
from tests.engine.small.tiny_models import byte_tokenizer, piece
from tests.example_counts import examples

VOCAB = 6
TOKENIZER = Tokenizer(byte_tokenizer(), 320)
IDS = st.lists(st.integers(1, VOCAB - 1), min_size=1, max_size=4)


@settings(max_examples=examples(400))
@given(sequences=st.lists(IDS, min_size=1, max_size=6), generated=st.lists(st.integers(1, VOCAB - 1), max_size=8))
def test_what_is_forbidden_is_what_transformers_forbids(sequences: list[list[int]], generated: list[int]) -> None:
    words = BadWords(tuple(s) for s in sequences)
    ours = {*words.always, *words.after(generated)}
    assert ours == set(forbidden(sequences, generated, VOCAB).nonzero()[0].tolist())


def test_a_word_is_spelled_alone_and_after_a_space() -> None:
    found = spellings(["the cat", " stop", "京"], TOKENIZER.spell)
    assert [TOKENIZER.decode(s) for s in found] == ["the cat", " the cat", "stop", " stop", "京", " 京"]
    assert found == [tuple(s) for s in bad_word_ids(["the cat", " stop", "京"])]
    assert found[1] == (piece(b" the"), piece(b" cat")) and found[3] == (piece(b" stop"),)


@pytest.mark.parametrize("word", ["\n\n", " ", "\t"])
def test_a_word_of_space_is_a_word(word: str) -> None:
    alone, after_a_space = spellings([word], TOKENIZER.spell)
    assert (TOKENIZER.decode(alone), TOKENIZER.decode(after_a_space)) == (word, " " + word)


def test_no_special_tokens_are_added() -> None:
    class Adds:
        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return [1] if add_special_tokens else [2]

        bos_token_id = eos_token_id = 0
        all_special_ids = (0,)

    assert spellings(["a"], Tokenizer(Adds(), 3).spell) == [(2,), (2,)]


def test_what_has_no_tokens_forbids_nothing() -> None:
    words = BadWords([(), ()])
    assert words.always == [] and words.after([1]) == [] and words.after([]) == []
