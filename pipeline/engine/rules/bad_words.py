"""Words that must not be generated: the token sequences that spell them, and what these forbid after given tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence


def spellings(words: Iterable[str], spell: Callable[[str], list[int]]) -> list[tuple[int, ...]]:
    """How a tokenizer spells words, each alone and after a space."""
    bare = [word.lstrip(" ") or word for word in words]
    return [tuple(spell(space + word)) for word in bare for space in ("", " ")]


class BadWords:
    """Token sequences of which none may be generated whole.

    Attributes:
        always: Tokens that are such a sequence by themselves, in order.
    """

    def __init__(self, sequences: Iterable[tuple[int, ...]]) -> None:
        """Sort the sequences by what a step looks for: the token that was generated last."""
        different = sorted({s for s in sequences if s})
        self.always = [s[0] for s in different if len(s) == 1]
        self._endings: dict[int, list[tuple[tuple[int, ...], int]]] = {}
        for *start, last in (s for s in different if len(s) > 1):
            self._endings.setdefault(start[-1], []).append((tuple(start), last))

    def after(self, generated: Sequence[int]) -> list[int]:
        """The last tokens of those sequences whose other tokens are the end of `generated`."""
        endings = self._endings.get(generated[-1], ()) if generated else ()
        return [last for start, last in endings if tuple(generated[-len(start) :]) == start]
