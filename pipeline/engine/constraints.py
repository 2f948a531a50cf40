"""What may come next: masks, biases and penalties, on the logits of those rows of a step that have any.

The order is that of `SamplingParams`. It does not know how a token is chosen, or when a sequence starts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.engine.bad_words import BadWords, spellings
from pipeline.engine.sampler import penalise
from pipeline.engine.sequence import Sequence
from pipeline.engine.stopping import StopWatch
from pipeline.engine.structured import Grammars
from pipeline.engine.tokenizer import Tokenizer
from pipeline.engine.upload import upload
from pipeline.types import ErrorCode, FinishReason, RowError

End = tuple[FinishReason, RowError | None]
"""How a sequence ends that no token may go on with."""
_REMEMBERED = 1024


@dataclass(slots=True)
class _Rules:
    """What holds for the sequence in a slot; tensors are token ids, `bias` with what is added to each."""

    watch: StopWatch
    ends: torch.Tensor
    words: BadWords | None
    always: torch.Tensor
    bias: tuple[torch.Tensor, torch.Tensor] | None
    penalised: bool

    def forbidden(self, sequence: Sequence) -> Iterator[torch.Tensor]:
        """Tokens that may not come next, the grammar aside."""
        if self.watch.forbids_end(sequence.asked):
            yield self.ends
        if self.words is not None:
            yield self.always
            yield upload(self.words.after(sequence.generated), np.int64, self.always.device)


class Constraints:
    """The rules of every slot, and the counts that penalties need.

    Args:
        slots: Number of slots.
        vocab_size: Size of the vocabulary.
        device: Where logits are.
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
        """Take the rules of the sequence that a slot is given to."""
        sampling, slot = sequence.request.sampling, sequence.slot
        penalties = [sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty]
        penalised = penalties != [1, 0, 0]
        if penalised:
            self._penalties[slot] = upload(penalties, np.float32, self._device)
            self._count(slot, sequence.request.prompt_token_ids)
        words = self._bad_words(tuple(sampling.bad_words)) if sampling.bad_words else None
        bias = {token: value for token, value in sampling.logit_bias.items() if token < self._vocab_size}
        if not (penalised or words or bias or watch.grammar or watch.forbids_end(0)):
            self._rules[slot] = None
            return
        self._rules[slot] = _Rules(
            watch, self._ids(t for t in sorted(watch.end_ids) if t < self._vocab_size), words,
            self._ids(words.always if words else ()),
            (self._ids(bias), upload(list(bias.values()), np.float32, self._device)) if bias else None, penalised,
        )  # fmt: skip

    def record(self, slots: torch.Tensor, chosen: torch.Tensor) -> None:
        """Count the tokens chosen for slots [B]."""
        if self._counts is not None:
            self._counts[slots, chosen] += 1

    def apply(self, logits: torch.Tensor, sequences: Seq[Sequence]) -> tuple[torch.Tensor, dict[int, End]]:
        """Constrain a step's logits.

        Args:
            logits: Float32 [B, V]; they are left as they are.
            sequences: Of the rows; the same one may stand in several.

        Returns:
            Logits [B, V], `logits` itself where no rule applies, and how the rows end that no token may go on with: what
            is chosen for these must not be used.
        """
        ruled = [(row, s, rules) for row, s in enumerate(sequences) if (rules := self._rules[s.slot]) is not None]
        forbidden = [(row, t) for row, s, rules in ruled for t in rules.forbidden(s) if len(t)]
        matched = [(row, s.slot, rules.watch) for row, s, rules in ruled if rules.watch.grammar is not None]
        biased = [(row, rules.bias) for row, _, rules in ruled if rules.bias is not None]
        penalised = [row for row, _, rules in ruled if rules.penalised]
        if not (forbidden or matched or biased or penalised):
            return logits, {}
        changed = logits.clone()
        if matched:
            self._keep_matching(changed, matched)
        if forbidden:
            changed[_places(forbidden)] = -math.inf
        if biased:
            values = torch.cat([values for _, (_, values) in biased])
            changed[_places([(row, ids) for row, (ids, _) in biased])] += values
        if penalised and self._counts is not None and self._in_prompt is not None:
            slots, rows = self._ids(sequences[row].slot for row in penalised), self._ids(penalised)
            changed[rows] = penalise(
                changed[rows], self._counts[slots], self._in_prompt[slots], *self._penalties[slots].unbind(1)
            )
        ends = {row: self._end(sequences[row].slot) for row in self._emptied(changed, forbidden, matched)}
        for row in ends:
            changed[row] = logits[row]  # the sampler needs a distribution
        return changed, ends

    def _emptied(
        self, logits: torch.Tensor, forbidden: list[tuple[int, torch.Tensor]], matched: list[tuple[int, int, StopWatch]]
    ) -> list[int]:
        """Rows without a token that may come: only a grammar can do that, or as many forbidden tokens as there are."""
        barred = Counter[int]()
        for row, tokens in forbidden:
            barred[row] += len(tokens)
        suspects = {row for row, _, _ in matched} | {row for row, n in barred.items() if n >= self._vocab_size}
        return [row for row in sorted(suspects) if logits[row].amax() == -math.inf]

    def _keep_matching(self, logits: torch.Tensor, matched: list[tuple[int, int, StopWatch]]) -> None:
        """Mask in place what a grammar does not permit. End tokens may come where its text may end."""
        watches = {slot: watch for _, slot, watch in matched}  # a lone sequence stands in two rows
        masks = self._grammars.masks([watch.grammar for watch in watches.values() if watch.grammar is not None])
        permitted = dict(zip(watches, upload(masks, np.bool_, self._device), strict=True))
        for slot, watch in watches.items():
            rules = self._rules[slot]
            if rules is not None and watch.grammar is not None and watch.grammar.accepting:
                permitted[slot][rules.ends] = True
        for row, slot, _ in matched:
            logits[row].masked_fill_(~permitted[slot], -math.inf)

    def _end(self, slot: int) -> End:
        """A text that matches stops; one that does not is cut off; one that cannot be followed is an error."""
        rules = self._rules[slot]
        grammar = rules.watch.grammar if rules is not None else None
        if grammar is not None and grammar.error is not None:
            return FinishReason.ERROR, RowError(ErrorCode.BAD_SAMPLING, grammar.error)
        matches = grammar is None or grammar.accepting
        return FinishReason.STOP if matches else FinishReason.LENGTH, None

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
            shape = (self._slots + 1, self._vocab_size)  # the last row is nobody's, see `SlotState`
            self._counts = torch.zeros(shape, dtype=torch.float32, device=self._device)
            self._in_prompt = torch.zeros(shape, dtype=torch.bool, device=self._device)
        self._counts[slot] = 0
        self._in_prompt[slot] = False
        self._in_prompt[slot, self._ids(prompt)] = True

    def _ids(self, tokens: Iterable[int]) -> torch.Tensor:
        return upload(list(tokens), np.int64, self._device)


def _places(rows: Seq[tuple[int, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a step, each with some token ids, as the index of all these places."""
    tokens = torch.cat([ids for _, ids in rows])
    places = [row for row, ids in rows for _ in range(len(ids))]
    return upload(places, np.int64, tokens.device), tokens
