"""Decides when a completion ends, and its text: by end tokens, stop ids, stop strings across tokens, and grammars."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.engine.model.tokenizer import REPLACEMENT, Tokenizer
from pipeline.engine.rules.structured import Matcher
from pipeline.types import FinishReason, Request

_VISIBLE = "a"
"""Replaces, as context for decoding, a prompt that decodes to nothing, so that each token gives exactly its own bytes."""


class StopWatch:
    """Follows one completion token by token.

    Text is decoded in pieces, each with the piece before it as context; the context of the first piece is the prompt's end.
    A piece that ends within a character is decoded again with the next one, and searched up to that character. A stop string
    that is a special token, which has no text, acts as an end token. One that contains a special token is searched for in the
    text with special tokens.
    """

    def __init__(
        self, request: Request, max_new: int, eos_token_ids: frozenset[int], tokenizer: Tokenizer,
        grammar: Matcher | None = None,
    ) -> None:  # fmt: skip
        """Read the request's stop rules; `grammar` is what its text must follow, if anything."""
        sampling = request.sampling
        self._max_new, self._min_new = max_new, min(sampling.min_tokens, max_new)
        self._stop = list(sampling.stop)
        self._overlap = max(map(len, self._stop), default=1) - 1
        tokens = {text: tokenizer.special_id(text) for text in self._stop}
        spelled = frozenset(i for i in tokens.values() if i is not None)
        self._special = any(i is None and tokenizer.has_special(text) for text, i in tokens.items())
        self.end_ids = (
            frozenset(sampling.stop_token_ids) | spelled | (frozenset() if sampling.ignore_eos else eos_token_ids)
        )
        self._tokenizer, self.grammar = tokenizer, grammar
        self._prompt = tokenizer.context(request.prompt_token_ids)
        if grammar is not None and not tokenizer.decode(self._prompt):
            self._prompt = tuple(tokenizer.spell(_VISIBLE))  # the text must be exactly what the grammar accepted
        self._context = self._decoded = 0  # ids[context:decoded] is the context of the next piece
        self._tail = ""  # the end of the text so far, where a stop string may have begun
        self._length = 0  # characters up to ids[decoded]
        self._searched = 0  # characters already searched for stop strings
        self._cut: int | None = None

    def forbids_end(self, generated: int) -> bool:
        """Whether end tokens are masked for the next token because `min_tokens` is not reached."""
        return generated < self._min_new and bool(self.end_ids)

    def check(self, ids: Sequence[int]) -> tuple[FinishReason, str | None] | None:
        """Return (finish reason, what stopped it) after the last of `ids` was generated, or None to go on."""
        if ids[-1] in self.end_ids:
            return FinishReason.STOP, self._tokenizer.token(ids[-1])
        complete = self.grammar is not None and self.grammar.advance(ids[-1])
        if self._stop and (found := self._stop_string(ids)) is not None and len(ids) >= self._min_new:
            self._cut, by = found
            return FinishReason.STOP, by
        if complete:
            return FinishReason.STOP, None
        if len(ids) >= self._max_new:
            return FinishReason.LENGTH, None
        return None

    def _stop_string(self, ids: Sequence[int]) -> tuple[int, str] | None:
        """Return (position, stop string) of the first stop string that the new text completes."""
        before, text = self._pieces(ids, self._context, self._decoded, special=self._special)
        whole = text.rstrip(REPLACEMENT)
        if len(whole) <= len(before):
            return None
        window = self._tail + whole[len(before) :]
        start = self._length - len(self._tail)
        # only stop strings that end in new text: older ones were within min_tokens
        new = self._searched - start
        places = [(at, s) for s in self._stop if (at := window.find(s, max(0, new - len(s) + 1))) >= 0]
        self._searched = start + len(window)
        if whole == text:
            self._context, self._decoded, self._length = self._decoded, len(ids), self._searched
            self._tail = window[len(window) - min(self._overlap, len(window)) :]
        if not places:
            return None
        place, found = min(places)
        return start + place, found

    def _pieces(self, ids: Sequence[int], context: int, decoded: int, *, special: bool) -> tuple[str, str]:
        """Return the text of ids[context:decoded], and that of ids[context:]; the prompt's end precedes the first piece."""
        first = () if context else self._prompt
        before = self._tokenizer.decode([*first, *ids[context:decoded]], special=special)
        text = self._tokenizer.decode([*first, *ids[context:]], special=special)
        # a character that began in the prompt and ended in the completion
        return before if text.startswith(before) else before.rstrip(REPLACEMENT), text

    def text(self, ids: Sequence[int], reason: FinishReason) -> str:
        """Return the completion's text, without the stop token or string."""
        if reason is FinishReason.STOP and ids and ids[-1] in self.end_ids:
            ids = ids[:-1]
        elif reason is FinishReason.STOP and self._cut is not None:
            return self._shortened(ids, self._cut)
        return self._decode(ids)

    def _decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of generated tokens as a continuation of the prompt's."""
        before, text = self._pieces(ids, 0, 0, special=special)
        return text[len(before) :]

    def _shortened(self, ids: Sequence[int], cut: int) -> str:
        """Return the text before the stop string."""
        if not self._special:
            return self._decode(ids)[:cut]
        # the complete tokens before it, without special ones, and a part of the next token
        kept = next(n for n in range(len(ids), -1, -1) if len(self._decode(ids[:n], special=True)) <= cut)
        whole = self._decode(ids, special=True)
        return self._decode(ids[:kept]) + whole[len(self._decode(ids[:kept], special=True)) : cut]
