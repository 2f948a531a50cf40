"""Tokens for people: the text that each adds, the band that its rank is in, and text in which nothing moves the cursor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.types import Tokenizer
from pipeline.wording import plain

BANDS: tuple[tuple[str, float, str], ...] = (
    ("first", 1, "green"), ("2 to 10", 10, "yellow"), ("11 to 100", 100, "dark_orange3"),
    ("beyond", float("inf"), "bold magenta"),
)  # fmt: skip
"""Name, greatest rank and colour: steps of brightness as well as of hue, and never red beside green."""
_UNFINISHED = "\ufffd"
"""What the beginning of a character decodes to."""
_LONGEST = 8
"""Tokens that a character may take; more are no character, whatever they are."""
_WORD_START = "▁"
"""What a SentencePiece vocabulary has for the space before a word."""


def colour(rank: float | None) -> str:
    """Return the colour of a rank's band; no colour for None."""
    return "" if rank is None else next(name for _, most, name in BANDS if rank <= most)


def shares(ranks: Any) -> str:
    """Return how many of the tokens are in each band."""
    least, told = 0.0, []
    for name, most, _ in BANDS:
        share = float(np.mean((np.asarray(ranks) > least) & (np.asarray(ranks) <= most)))
        least = most
        if share:
            told.append(f"{share:.0%} {name}")
    return ", ".join(told)


def token_texts(ids: Sequence[int], tokenizer: Tokenizer | None) -> list[str]:
    """Return the text that each token adds; a character of several tokens belongs to the last of them, the others add "".

    Each token is decoded behind some that come before it: many tokenizers leave out the space before the first token they
    decode. Without a tokenizer, each token is shown as its id.
    """
    if tokenizer is None:
        return [f"#{token} " for token in ids]
    texts = [""] * len(ids)
    start, read = 0, 0  # the tokens from `start` to `read` are decoded again, as the context of the next one
    for place in range(len(ids)):
        before = tokenizer.decode(ids[start:read], special=True)
        text = tokenizer.decode(ids[start : place + 1], special=True)
        if text.endswith(_UNFINISHED) and place + 1 < len(ids) and place + 1 - read < _LONGEST:
            continue
        texts[place] = text[len(before) :]
        start, read = read, place + 1
    if texts:
        texts[0] = _with_space(texts[0], tokenizer.token(ids[0]))
    return texts


def token_text(token: int, tokenizer: Tokenizer | None) -> str:
    """Return the text of a token by itself; its name if it is no text, or only part of a character."""
    if tokenizer is None:
        return f"#{token}"
    text, name = tokenizer.decode([token], special=True), tokenizer.token(token)
    return _with_space(text, name) if text and _UNFINISHED not in text else name


def _with_space(text: str, name: str) -> str:
    """Restore the space that the decoder of a SentencePiece vocabulary leaves out before the first token."""
    return f" {text}" if name.startswith(_WORD_START) and not text.startswith(" ") else text


def on_screen(text: str) -> str:
    """Return a text whose line ends are seen, and in which nothing moves the cursor."""
    return "⏎\n".join(plain(line) for line in text.split("\n"))
