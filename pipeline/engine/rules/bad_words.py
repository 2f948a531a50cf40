"""Finds the tokens that bad words forbid next, from the token sequences that spell the words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence


def spellings(words: Iterable[str], spell: Callable[[str], list[int]]) -> list[tuple[int, ...]]:
    """Return the token sequences of words, each word alone and after a space."""
    bare = [word.lstrip(" ") or word for word in words]
    return [tuple(spell(space + word)) for word in bare for space in ("", " ")]


class BadWords:
    """Token sequences that must not be generated completely.

    Attributes:
        always: Tokens that are such a sequence alone, in order.
    """

    def __init__(self, sequences: Iterable[tuple[int, ...]]) -> None:
        """Index the sequences by their token before the last, which a step looks up."""
        different = sorted({s for s in sequences if s})
        self.always = [s[0] for s in different if len(s) == 1]
        self._endings: dict[int, list[tuple[tuple[int, ...], int]]] = {}
        for *start, last in (s for s in different if len(s) > 1):
            self._endings.setdefault(start[-1], []).append((tuple(start), last))

    def after(self, generated: Sequence[int]) -> list[int]:
        """Return the last token of each sequence whose other tokens are the end of `generated`."""
        endings = self._endings.get(generated[-1], ()) if generated else ()
        return [last for start, last in endings if tuple(generated[-len(start) :]) == start]
