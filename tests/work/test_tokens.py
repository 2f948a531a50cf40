"""The text that each token adds, with tokenizers of every kind."""

from __future__ import annotations

import pytest

from pipeline.engine.model.tokenizer import Tokenizer
from pipeline.work.tokens import BANDS, colour, on_screen, pieces, shares
from tests.engine.small.tokenizer_kinds import FOLLOWED, OTHERS, made

TEXTS = ["Hello world yes no", "a b a b yes", "", "Hello"]


@pytest.mark.parametrize("kind", [*FOLLOWED, *OTHERS])
@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_are_the_text(kind: str, text: str) -> None:
    tokenizer = Tokenizer(made(kind), len(made(kind)))
    (ids,) = tokenizer.encode_batch([text], special=False)
    found = list(pieces(ids, tokenizer))
    assert "".join(piece for piece, _ in found) == tokenizer.decode(ids, special=True)
    assert [place for _, place in found] == sorted({place for _, place in found})


def test_a_character_of_several_tokens_belongs_to_the_last_of_them() -> None:
    tokenizer = Tokenizer(made("llama-file"), len(made("llama-file")))
    (ids,) = tokenizer.encode_batch(["Hello é雨yes"], special=False)
    found = dict((place, piece) for piece, place in pieces(ids, tokenizer))
    assert "\ufffd" not in "".join(found.values()) and {"é", "雨"} <= set(found.values())
    assert len(found) == len(ids) - 1 - 2  # two bytes, and three


def test_what_is_no_character_is_not_waited_for() -> None:
    class Broken:
        bos_token_id, vocab_size = None, 9

        def decode(self, ids: list[int], *, special: bool = False) -> str:
            return "\ufffd" * len(ids)

    broken: object = Broken()
    found = list(pieces(list(range(20)), broken))  # type: ignore[arg-type]
    assert "".join(piece for piece, _ in found) == "\ufffd" * 20 and len(found) == 3


def test_bands() -> None:
    assert [colour(rank) for rank in (1, 2, 10, 11, 100, 101)] == [BANDS[i][2] for i in (0, 1, 1, 2, 2, 3)]
    assert colour(None) == "" and shares([1, 1, 5, 1000]) == "50% first, 25% 2 to 10, 25% beyond"
    assert on_screen("a\n\x1b") == "a⏎\n\\x1b"
