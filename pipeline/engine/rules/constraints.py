"""Applies masks, biases and penalties to the logits of the rows of a step that have any.

The order is that of `SamplingParams`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.engine.device import upload
from pipeline.engine.model.tokenizer import Tokenizer
from pipeline.engine.plain.sampler import penalise
from pipeline.engine.rules.bad_words import BadWords, spellings
from pipeline.engine.rules.bits import allow, permitted
from pipeline.engine.rules.stopping import StopWatch
from pipeline.engine.rules.structured import Grammars
from pipeline.engine.sequence import Sequence
from pipeline.types import ErrorCode, FinishReason, RowError

End = tuple[FinishReason, RowError | None]
"""How a sequence ends for which no token is allowed."""
_REMEMBERED = 1024


@dataclass(slots=True)
class _Rules:
    """The rules of the sequence in a slot: masked token ids, and biases."""

    watch: StopWatch
    ends: list[int]
    words: BadWords | None
    bias: dict[int, float]
    penalised: bool

    def forbidden(self, sequence: Sequence) -> Iterator[int]:
        """Yield the tokens that may not come next, except those masked by the grammar; some may be repeated."""
        if self.watch.forbids_end(sequence.asked):
            yield from self.ends
        if self.words is not None:
            yield from self.words.always
            yield from self.words.after(sequence.generated)

    def end(self) -> End:
        """Return how the text ends if no token is allowed: a matching text stops, another one is cut off or is an error."""
        grammar = self.watch.grammar
        if grammar is not None and grammar.error is not None:
            return FinishReason.ERROR, RowError(ErrorCode.BAD_SAMPLING, grammar.error)
        matches = grammar is None or grammar.accepting
        return FinishReason.STOP if matches else FinishReason.LENGTH, None


@dataclass(frozen=True, slots=True)
class Emptied:
    """Rows of a step that may have no allowed token; the device determines whether that is so.

    Attributes:
        flags: Bool [N], on the device: whether each of them has none; None: there are no such rows.
    """

    _rows: tuple[tuple[int, _Rules], ...] = ()
    flags: torch.Tensor | None = None

    def ends(self, flags: Seq[bool] | None = None) -> dict[int, End]:
        """Return how the rows without an allowed token end; the tokens chosen for them must not be used.

        Args:
            flags: `flags` on the host; None: fetch them.
        """
        if flags is None:
            flags = [] if self.flags is None else self.flags.tolist()
        return {row: rules.end() for (row, rules), empty in zip(self._rows, flags, strict=True) if empty}


class Constraints:
    """The rules of every slot, and the token counts for penalties.

    Args:
        slots: Number of slots.
        vocab_size: Size of the vocabulary.
        device: The device of the logits.
        tokenizer: Spells bad words.
        grammars: Computes the masks of structured output.
    """

    def __init__(
        self, slots: int, vocab_size: int, device: torch.device, tokenizer: Tokenizer, grammars: Grammars
    ) -> None:
        """Start without any rule."""
        self._slots, self._vocab_size, self._device = slots, vocab_size, device
        self._tokenizer, self._grammars = tokenizer, grammars
        self._rules: list[_Rules | None] = [None] * slots
        self._words: dict[tuple[str, ...], BadWords] = {}
        self._penalties = torch.zeros(slots, 3, dtype=torch.float32, device=device)
        self._counts: torch.Tensor | None = None  # made when the first penalty is asked for
        self._in_prompt: torch.Tensor | None = None

    def admit(self, sequence: Sequence, watch: StopWatch) -> None:
        """Store the rules of the sequence that got a slot."""
        sampling, slot = sequence.request.sampling, sequence.slot
        penalties = [sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty]
        penalised = penalties != [1, 0, 0]
        if penalised:
            self._penalties[slot] = upload(penalties, np.float32, self._device)
            self._count(slot, sequence.request.prompt_token_ids)
        words = self._bad_words(sampling.bad_words) if sampling.bad_words else None
        bias = {token: value for token, value in sampling.logit_bias if token < self._vocab_size}
        if not (penalised or words or bias or watch.grammar or watch.forbids_end(0)):
            self._rules[slot] = None
            return
        ends = [t for t in sorted(watch.end_ids) if t < self._vocab_size]
        self._rules[slot] = _Rules(watch, ends, words, bias, penalised)

    def record(self, slots: torch.Tensor, chosen: torch.Tensor) -> None:
        """Count the tokens chosen for slots [B]."""
        if self._counts is not None:
            self._counts[slots.long(), chosen] += 1

    def apply(self, logits: torch.Tensor, sequences: Seq[Sequence]) -> tuple[torch.Tensor, Emptied]:
        """Constrain a step's logits, without waiting for the device.

        Args:
            logits: Float32 [B, V]; not modified.
            sequences: The sequence of each row; one sequence may have several rows.

        Returns:
            Logits [B, V], `logits` itself if no rule applies, and the rows that may have no allowed token.
        """
        ruled = [(row, s, rules) for row, s in enumerate(sequences) if (rules := self._rules[s.slot]) is not None]
        forbidden = {row: tokens for row, s, rules in ruled if (tokens := set(rules.forbidden(s)))}
        matched = [(row, s.slot, rules) for row, s, rules in ruled if rules.watch.grammar is not None]
        biased = {row: rules.bias for row, _, rules in ruled if rules.bias}
        penalised = [row for row, _, rules in ruled if rules.penalised]
        if not (forbidden or matched or biased or penalised):
            return logits, Emptied()
        changed = logits.clone()
        if matched:
            self._keep_matching(changed, matched)
        if forbidden:
            # a number on the host would be copied to the device, which waits
            changed[self._places(forbidden)] = changed.new_full((), -math.inf)
        if biased:
            values = [value for bias in biased.values() for value in bias.values()]
            changed[self._places(biased)] += upload(values, np.float32, self._device)
        if penalised and self._counts is not None and self._in_prompt is not None:
            slots, rows = self._ids(sequences[row].slot for row in penalised), self._ids(penalised)
            changed[rows] = penalise(
                changed[rows], self._counts[slots], self._in_prompt[slots], *self._penalties[slots].unbind(1)
            )
        # only a grammar can mask all tokens, or as many masked tokens as the vocabulary has
        barred = {row for row, tokens in forbidden.items() if len(tokens) >= self._vocab_size}
        suspects = [(row, rules) for row, _, rules in ruled if row in barred or rules.watch.grammar is not None]
        return changed, self._look(changed, logits, suspects)

    def _look(self, changed: torch.Tensor, logits: torch.Tensor, suspects: list[tuple[int, _Rules]]) -> Emptied:
        """Let the device find the rows without an allowed token, and restore their logits: a sampler needs a distribution."""
        if not suspects:
            return Emptied()
        rows = self._ids(row for row, _ in suspects)
        empty = changed[rows].amax(-1) == -math.inf
        changed[rows] = torch.where(empty[:, None], logits[rows], changed[rows])
        return Emptied(tuple(suspects), empty)

    def _keep_matching(self, logits: torch.Tensor, matched: list[tuple[int, int, _Rules]]) -> None:
        """Mask in place the tokens that a grammar does not allow. End tokens are allowed where the text may end."""
        rules = {slot: one for _, slot, one in matched}  # a single sequence has two rows
        matchers = [one.watch.grammar for one in rules.values() if one.watch.grammar is not None]
        masks = self._grammars.masks(matchers)
        for mask, matcher, one in zip(masks, matchers, rules.values(), strict=True):
            if matcher.accepting:
                allow(mask, one.ends)
        order = {slot: i for i, slot in enumerate(rules)}
        may_come = permitted(masks[[order[slot] for _, slot, _ in matched]], self._vocab_size, self._device)
        rows = self._ids(row for row, _, _ in matched)
        logits[rows] = logits[rows].masked_fill_(~may_come, -math.inf)

    def _bad_words(self, words: tuple[str, ...]) -> BadWords:
        if words not in self._words:
            if len(self._words) >= _REMEMBERED:
                self._words.clear()
            spelled = spellings(words, self._tokenizer.spell)
            self._words[words] = BadWords(s for s in spelled if max(s, default=0) < self._vocab_size)
        return self._words[words]

    def _count(self, slot: int, prompt: Seq[int]) -> None:
        """Start counting in a slot."""
        if self._counts is None or self._in_prompt is None:
            shape = (self._slots + 1, self._vocab_size)  # the last row is idle, see `SlotState`
            self._counts = torch.zeros(shape, dtype=torch.float32, device=self._device)
            self._in_prompt = torch.zeros(shape, dtype=torch.bool, device=self._device)
        self._counts[slot].fill_(0)
        self._in_prompt[slot].fill_(False).index_fill_(0, self._ids(prompt), True)

    def _ids(self, tokens: Iterable[int]) -> torch.Tensor:
        return upload(list(tokens), np.int64, self._device)

    def _places(self, rows: Mapping[int, Collection[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the index (rows, token ids) of the given token ids of each row."""
        places = [(row, token) for row, tokens in rows.items() for token in tokens]
        index = upload(list(zip(*places, strict=True)), np.int64, self._device)
        return index[0], index[1]
