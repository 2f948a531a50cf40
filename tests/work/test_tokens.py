"""The text that each token adds, with tokenizers of every kind."""

from __future__ import annotations

import pytest

from pipeline.engine.model.tokenizer import Tokenizer
from pipeline.work.tokens import BANDS, colour, on_screen, shares, token_text, token_texts
from tests.engine.small.tokenizer_kinds import FOLLOWED, OTHERS, made

TEXTS = ["Hello world yes no", "a b a b yes", "", "Hello"]


@pytest.mark.parametrize("kind", [*FOLLOWED, *OTHERS])
@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_are_the_text(kind: str, text: str) -> None:
    tokenizer = Tokenizer(made(kind), len(made(kind)))
    (ids,) = tokenizer.encode_batch([text], special=False)
    before: list[int] = []
    if ids and tokenizer.token(ids[0]).startswith("▁"):  # decoded first, it would lose its space
        (before,) = tokenizer.encode_batch(["yes"], special=False)
    whole, beginning = (tokenizer.decode(part, special=True) for part in ([*before, *ids], before))
    assert beginning + "".join(token_texts(ids, tokenizer)) == whole


def test_a_character_of_several_tokens_belongs_to_the_last_of_them() -> None:
    tokenizer = Tokenizer(made("llama-file"), len(made("llama-file")))
    (ids,) = tokenizer.encode_batch(["Hello é雨yes"], special=False)
    found = token_texts(ids, tokenizer)
    assert "\ufffd" not in "".join(found) and {"é", "雨"} <= set(found)
    assert found[found.index("é") - 1] == "" and found[found.index("雨") - 2 :][:2] == ["", ""]
    assert found.count("") == 1 + 2  # two bytes, and three


def test_what_is_no_character_is_not_waited_for() -> None:
    class Broken:
        bos_token_id, vocab_size = None, 9

        def decode(self, ids: list[int], *, special: bool = False) -> str:
            return "\ufffd" * len(ids)

        def token(self, token_id: int) -> str:
            return str(token_id)

    broken: object = Broken()
    found = token_texts(list(range(20)), broken)  # type: ignore[arg-type]
    assert "".join(found) == "\ufffd" * 20 and [len(text) for text in found if text] == [8, 8, 4]


def test_a_token_by_itself_is_told_by_its_text_or_its_name() -> None:
    tokenizer = Tokenizer(made("llama-file"), len(made("llama-file")))
    (ids,) = tokenizer.encode_batch(["Hello é"], special=False)
    shown = [token_text(token, tokenizer) for token in ids]
    assert shown[0] == " Hello" and shown[-2:] == [tokenizer.token(token) for token in ids[-2:]]
    assert token_text(7, None) == "#7" and token_texts([7, 8], None) == ["#7 ", "#8 "]


def test_bands() -> None:
    assert [colour(rank) for rank in (1, 2, 10, 11, 100, 101)] == [BANDS[i][2] for i in (0, 1, 1, 2, 2, 3)]
    assert colour(None) == "" and shares([1, 1, 5, 1000]) == "50% first, 25% 2 to 10, 25% beyond"
    assert on_screen("a\n\x1b") == "a⏎\n\\x1b"
