"""Tokenises prompts together with what follows them, so that only the latter is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.types import Tokenizer

Given = str | Sequence[int]
"""A text, or token ids."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and what follows it.

    Attributes:
        prompt: The prompt; an empty text stands for the beginning of a text.
        given: What is scored, with the delimiter before it.
        text: The same without the delimiter.
    """

    prompt: Given
    given: Given
    text: str


def encode_pairs(
    tokenizer: Tokenizer, pairs: Sequence[Pair], special: bool | None, beginning: list[int]
) -> list[tuple[list[int], list[int]]]:
    """Return the ids of each prompt, and of what follows it.

    A text is tokenised together with its prompt and the prompt alone; what is scored are the ids beyond those of the prompt.
    Blanks at the end of a prompt belong to what follows, as tokens begin with them. lm-evaluation-harness does the same.

    Args:
        tokenizer: The model's.
        pairs: The pairs.
        special: Whether to add special tokens to texts; see `Tokenizer.encode_batch`.
        beginning: The ids that stand for an empty prompt.
    """
    together: dict[str, list[int]] = {}
    alone: dict[str, list[int]] = {}
    for pair in pairs:
        if isinstance(pair.given, str):
            known = together if isinstance(pair.prompt, str) and pair.prompt.rstrip() else alone
            known.update((text, list[int]()) for text in _texts_of(pair))
    for known, wanted in ((together, special), (alone, False)):
        known.update(zip(known, tokenizer.encode_batch(list(known), wanted), strict=True))
    found = []
    for pair in pairs:
        if not isinstance(pair.given, str):
            found.append((beginning if isinstance(pair.prompt, str) else list(pair.prompt), list(pair.given)))
        elif not isinstance(pair.prompt, str):
            found.append((list(pair.prompt), alone[pair.given]))
        elif pair.prompt.rstrip():
            before, whole = (together[text] for text in _texts_of(pair))
            found.append((before, whole[len(before) :]))
        else:
            found.append((beginning, alone[pair.prompt + pair.given]))
    return found


def _texts_of(pair: Pair) -> list[str]:
    """Return the texts of a pair to tokenise: the prompt without the blanks at its end, and the whole."""
    prompt, given = pair.prompt, pair.given
    assert isinstance(given, str)
    if not isinstance(prompt, str):
        return [given]
    return [prompt.rstrip(), prompt + given] if prompt.rstrip() else [prompt + given]
