"""When a completion ends, and the text that it leaves: end tokens, stop ids, stop strings across token borders, grammars."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.engine.model.tokenizer import REPLACEMENT, Tokenizer
from pipeline.engine.rules.structured import Matcher
from pipeline.types import FinishReason, Request

_VISIBLE = "a"
"""A text that stands for a prompt that leaves none, where each token's own bytes are wanted."""


class StopWatch:
    """Follows one completion token by token.

    Text is decoded piece by piece, each with the piece before it as context; the first piece's context is the prompt's end.
    A piece that ends within a character is decoded again with the next one, and searched up to that character. A stop string
    that is a special token, which leaves no text, is an end token; one that contains such a token is looked for in the text
    with special tokens.
    """

    def __init__(
        self, request: Request, max_new: int, eos_token_ids: frozenset[int], tokenizer: Tokenizer,
        grammar: Matcher | None = None,
    ) -> None:  # fmt: skip
        """Take the request's own ending rules, and the matcher that its text has to follow, if any."""
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
            self._prompt = tuple(tokenizer.spell(_VISIBLE))  # the text has to be what the grammar took
        self._context = self._decoded = 0  # ids[context:decoded] is the context of what comes next
        self._tail = ""  # the end of the text so far, in which a stop string may have begun
        self._length = 0  # characters up to ids[decoded]
        self._searched = 0  # characters in which stop strings were looked for
        self._cut: int | None = None

    def forbids_end(self, generated: int) -> bool:
        """Whether the end tokens are out of bounds for the next token, as `min_tokens` is not reached."""
        return generated < self._min_new and bool(self.end_ids)

    def check(self, ids: Sequence[int]) -> tuple[FinishReason, str | None] | None:
        """Return (finish reason, what stopped it) after the last of `ids` was generated, or null to go on."""
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
        """Where the stop string begins that the new text completes, and which; the first one, if there are several."""
        before, text = self._pieces(ids, self._context, self._decoded, special=self._special)
        whole = text.rstrip(REPLACEMENT)
        if len(whole) <= len(before):
            return None
        window = self._tail + whole[len(before) :]
        start = self._length - len(self._tail)
        # only what ends in new text: an older one was within min_tokens
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
        # a character that the prompt left open, and the completion has ended
        return before if text.startswith(before) else before.rstrip(REPLACEMENT), text

    def text(self, ids: Sequence[int], reason: FinishReason) -> str:
        """The completion's text, without the stop token or string."""
        if reason is FinishReason.STOP and ids and ids[-1] in self.end_ids:
            ids = ids[:-1]
        elif reason is FinishReason.STOP and self._cut is not None:
            return self._shortened(ids, self._cut)
        return self._decode(ids)

    def _decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of generated tokens, as it follows the prompt's."""
        before, text = self._pieces(ids, 0, 0, special=special)
        return text[len(before) :]

    def _shortened(self, ids: Sequence[int], cut: int) -> str:
        """The text up to where the stop string begins."""
        if not self._special:
            return self._decode(ids)[:cut]
        # the whole tokens before, without the special ones, and a part of the next one
        kept = next(n for n in range(len(ids), -1, -1) if len(self._decode(ids[:n], special=True)) <= cut)
        whole = self._decode(ids, special=True)
        return self._decode(ids[:kept]) + whole[len(self._decode(ids[:kept], special=True)) : cut]
