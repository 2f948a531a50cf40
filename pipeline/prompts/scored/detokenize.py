"""Undoes the tokenisation of old corpora, so that a model sees text as people write it.

The rules are those by which published figures were made, Megatron-LM's `wiki` and `ptb`. A figure is equal only if each of them
is there, also the one that can never match.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_Rule = tuple[str | re.Pattern[str], str]

_JOINED = tuple((f" {mark} ", f"{mark} ") for mark in ":;.!?,")
_PAIRS = ((r"\(", r"\)"), (r"\[", r"\]"), ("{", "}"), ('"', '"'), ("'", "'"))


def _closed(left: str, right: str) -> _Rule:
    """Return the rule that takes away the blanks inside a pair of marks."""
    plain = left.replace("\\", ""), right.replace("\\", "")
    return re.compile(rf"{left}\s*([^{right}]*?)\s*{right}"), rf"{plain[0]}\1{plain[1]}"


WIKI: Sequence[_Rule] = (
    ("s '", "s'"),
    (re.compile(r"/' [0-9]/"), "/'[0-9]/"),  # it was meant for years such as '90, and never matches
    (" @-@ ", "-"),
    (" @,@ ", ","),
    (" @.@ ", "."),
    *_JOINED,
    *(_closed(*pair) for pair in _PAIRS),
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" ° ", "°"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)
PTB: Sequence[_Rule] = (
    (" '", "'"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" n't", "n't"),
    (" N ", "1 "),
    ("$ 1", "$1"),
    ("# 1", "#1"),
)


def _apply(rules: Sequence[_Rule], text: str) -> str:
    for find, instead in rules:
        text = text.replace(find, instead) if isinstance(find, str) else find.sub(instead, text)
    return text


def wiki(text: str) -> str:
    """Undo the tokenisation of WikiText."""
    return _apply(WIKI, text)


def ptb(text: str) -> str:
    """Undo the tokenisation of the Penn Treebank."""
    return _apply(PTB, text)


def plain(text: str) -> str:
    """Leave a text as it is."""
    return text


DETOKENIZERS: dict[str, Callable[[str], str]] = {"none": plain, "wiki": wiki, "ptb": ptb}
"""What `score.detokenize` names."""
