"""The windows in which a long text is read, so that each of its tokens is scored once."""

from __future__ import annotations

import bisect
import functools
from dataclasses import dataclass

from pipeline.types import Passage


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens `begin` to `end` (exclusive) of a text, of which those from `first` on are scored."""

    begin: int
    first: int
    end: int


@functools.lru_cache(maxsize=8)
def sliding(length: int, context: int, stride: int) -> tuple[Window, ...]:
    """Return the windows of transformers' perplexity guide: window k begins at k · stride.

    Each scores the tokens that no window before it has scored, except its own first token: with `stride` = `context` the first
    token of every window stays unscored.
    """
    windows, done = [], 0
    for begin in range(0, length, stride):
        end = min(begin + context, length)
        if (first := max(done, begin + 1)) < end:
            windows.append(Window(begin, first, end))
        done = end
        if end == length:
            break
    return tuple(windows)


@functools.lru_cache(maxsize=8)
def rolling(length: int, context: int) -> tuple[Window, ...]:
    """Return the windows of lm-evaluation-harness with a context of one token: `context` new tokens each.

    The last one, which has fewer new tokens, is read after as many others as the context holds. A window has one token more
    than the context, as its last token is not read.
    """
    windows = [Window(0, 1, min(context + 1, length))] if length > 1 else []
    while windows and windows[-1].end < length:
        first = windows[-1].end
        end = min(first + context, length)
        windows.append(Window(end - context - 1, first, end))
    return tuple(windows)


def windows_of(passage: Passage, context: int, stride: int | None) -> tuple[Window, ...]:
    """Return the windows that a passage has to be read in; their scored tokens may go beyond it.

    Args:
        passage: The passage. Windows that begin to score before it belong to the passage before, unless this one leads.
        context: Tokens that the model reads at once.
        stride: That of sliding windows; None: rolling ones.
    """
    if passage.start == passage.stop:
        return ()
    length = len(passage.token_ids)
    if not passage.windowed:
        return (Window(0, passage.start, length),)
    known = rolling(length, context) if stride is None else sliding(length, context, stride)
    if passage.leads:
        begin = bisect.bisect_right(known, passage.start, key=lambda w: w.end)
    else:
        begin = bisect.bisect_left(known, passage.start, key=lambda w: w.first)
    end = bisect.bisect_left(known, passage.stop, key=lambda w: w.first)
    return known[begin:end]
